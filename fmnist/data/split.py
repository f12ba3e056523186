"""Parts of a data set that never change."""

import torch
from torch import Tensor


def stratified_split(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divides samples into two parts so that every class keeps its share.

    Args:
        labels: int64 (N,).
        count: Samples to take out, from 1 to N - 1.
        seed: Seed of the choice within each class.

    Returns:
        Indices of the samples that stay, and of the ``count`` samples taken out, both ascending. A class
        of a single sample stays; then one fewer is taken.
    """
    size = len(labels)
    shuffled = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # Equal steps through the samples sorted by class meet each class in proportion to its size.
    steps = (torch.arange(count) * size + size // 2) // count
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[by_class[steps]] = True
    chosen &= torch.bincount(labels)[labels] > 1
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def resolve_size(size: float, total: int) -> int:
    """Turns a number of samples, or a share of them below 1, into a number."""
    return round(size * total) if 0 < size < 1 else int(size)
