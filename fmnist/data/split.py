"""Parts of a data set that never change."""

import hashlib
import re

import torch
from torch import Tensor

from fmnist.errors import check


def hold_out(
    images: Tensor, labels: Tensor, digests: Tensor | None, part: float | str, seed: int
) -> tuple[Tensor, Tensor]:
    """Divides training images into those to train on and those to validate on.

    Args:
        images: uint8 (N, 1, 28, 28).
        labels: int64 (N,).
        digests: A number for the content of each image, int64 (N,), where the content decides.
        part: What to validate on: a number, a share below 1, or a fold, such as ``2/5``.
        seed: Seed of the choice.

    Returns:
        Indices of both, ascending.

    Raises:
        UserError: One of them would be empty.
    """
    if isinstance(part, str):
        number, count = read_fold(part)
        chosen = deal_folds(digest_images(images) if digests is None else digests, labels, count, seed) == number
        return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
    size, total = resolve_size(part, len(labels)), len(labels)
    what = f"data.val_size {part} of {total:,} images"
    check(size > 0, f"{what} leaves none to validate on: give --data.val_size {2 / total:.2g} or more, or 0 for none")
    check(size < total, f"{what} leaves none to train on: give a share, such as --data.val_size 0.1")
    if digests is None:
        return stratified_split(labels, size, seed)
    train, val = split_by_content(digests, labels, size / total, seed)
    check(len(train) > 0 < len(val), f"{what} leaves a part empty: give another --data.val_size")
    return train, val


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


def read_fold(text: str) -> tuple[int, int]:
    """Reads ``2/5``, the second of five folds, as its number and their number.

    Raises:
        UserError: It is no fold.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    what = f"data.fold is {text}: write 2/5 for the second of five folds, of which there are two or more"
    check(count > 1 and 1 <= number <= count, what)
    return number, count


def check_fold(text: str | None) -> None:
    """Raises a ``UserError`` for what is given as a fold and is none."""
    if text is not None:
        read_fold(text)


def deal_folds(digests: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """Deals samples into folds of equal size, each with its share of every class; equal samples stay together.

    Args:
        digests: A number for the content of each sample, int64 (N,).
        labels: int64 (N,).
        count: Number of folds, at most that of different samples.
        seed: Seed of the order in which the samples of a class are dealt, whatever their order is.

    Returns:
        The fold of each sample, int64 (N,), from 1 to ``count``.

    Raises:
        UserError: There are fewer different samples than folds.
    """
    kinds, kind = torch.unique(digests, return_inverse=True)
    check(count <= len(kinds), f"data.fold: {len(kinds):,} different images cannot be {count:,} folds: give fewer")
    classes = torch.zeros_like(kinds).scatter_reduce(0, kind, labels, "amax")  # equal samples may differ in theirs
    order = torch.tensor([_place(digest, seed) for digest in kinds.tolist()], dtype=torch.float64).argsort()
    order = order[classes[order].argsort(stable=True)]
    folds = torch.empty_like(kinds)
    folds[order] = torch.arange(len(kinds)) % count + 1
    return folds[kind]


def digest_images(images: Tensor) -> Tensor:
    """Returns a number for the pixels of each image, int64 (N,)."""
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images.numpy())
    return torch.tensor([int.from_bytes(digest, signed=True) for digest in digests])


def _place(digest: int, seed: int) -> float:
    content = hashlib.blake2b(f"{digest} {seed}".encode(), digest_size=6).digest()
    return int.from_bytes(content) / 2**48


def resolve_size(size: float, total: int) -> int:
    """Turns a number of samples, or a share of them below 1, into a number."""
    return round(size * total) if 0 < size < 1 else int(size)


def digest_split(train_labels: Tensor, val_images: Tensor) -> str:
    """Returns 16 hexadecimal digits that change when another image is chosen for validation."""
    return hashlib.sha256(train_labels.numpy().tobytes() + val_images.numpy().tobytes()).hexdigest()[:16]
