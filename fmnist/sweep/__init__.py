"""Many trainings: what is tried, where it lies, and who trains what."""
