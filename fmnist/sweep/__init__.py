"""Hyperparameter search: the plan, the trials on disk, and the loop that trains them."""
