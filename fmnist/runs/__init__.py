"""Files of a training run: writing and reading."""
