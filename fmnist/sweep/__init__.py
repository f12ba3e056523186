"""Hyperparameter search: what is tried, the trials on disk, and the loop that trains them."""
