"""The network and what is computed from its outputs: torch and nothing else."""
