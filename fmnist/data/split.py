"""Parts of a data set that never change."""

import hashlib

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


def split_by_content(digests: Tensor, labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divides samples by what they are, whatever other samples there are: more samples leave each where it was.

    A sample is taken out if a hash of its content and the seed is below a threshold, so equal samples stay
    together, and sizes are met approximately. A class that would be missing from a part gives it the sample
    that is nearest to the threshold, with its equals; a class of equal samples alone stays.

    Args:
        digests: A number for the content of each sample, int64 (N,).
        labels: int64 (N,).
        share: Share of the samples to take out, above 0 and below 1.
        seed: Seed of the hash.

    Returns:
        Indices of the samples that stay, and of those taken out, both ascending.
    """
    places = torch.tensor([_place(digest, seed) for digest in digests.tolist()], dtype=torch.float64)
    taken = places < share
    for label in range(int(labels.max()) + 1):
        mine = (labels == label).nonzero().flatten()
        found = places[mine]
        if len(mine) and found.min() < found.max():
            taken[mine[found == found.min()]] = True
            taken[mine[found == found.max()]] = False
    return (~taken).nonzero().flatten(), taken.nonzero().flatten()


def _place(digest: int, seed: int) -> float:
    content = hashlib.blake2b(f"{digest} {seed}".encode(), digest_size=6).digest()
    return int.from_bytes(content) / 2**48


def resolve_size(size: float, total: int) -> int:
    """Turns a number of samples, or a share of them below 1, into a number."""
    return round(size * total) if 0 < size < 1 else int(size)


def digest_split(train_labels: Tensor, val_images: Tensor) -> str:
    """Returns 16 hexadecimal digits that change when another image is chosen for validation."""
    return hashlib.sha256(train_labels.numpy().tobytes() + val_images.numpy().tobytes()).hexdigest()[:16]
