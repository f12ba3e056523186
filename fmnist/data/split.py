"""Fixed divisions of a data set into parts."""

import hashlib
import re

import torch
from torch import Tensor

from fmnist.data.images import Rows, read_in_parts
from fmnist.errors import check


def hold_out(
    images: Tensor | Rows, labels: Tensor, digests: Tensor | None, by_content: bool, part: float | str, seed: int
) -> tuple[Tensor, Tensor]:
    """Divides training images into those to train on and those to validate on; copies of an image stay together.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        digests: A number for the content of each image, int64 (N,), where the source knows it.
        by_content: Whether ``digests`` decide, not the order of the images.
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
        return _divide(chosen)
    size, total = resolve_size(part, len(labels)), len(labels)
    what = f"data.val_size {part} of {total:,} images"
    check(size > 0, f"{what} leaves none to validate on: give --data.val_size {2 / total:.2g} or more, or 0 for none")
    check(size < total, f"{what} leaves none to train on: give a share, such as --data.val_size 0.1")
    if by_content and digests is not None:
        train, val = split_by_content(digests, labels, size / total, f"val {seed}")
    else:
        train, val = stratified_split(labels, size, seed)
        if digests is not None:
            copies = torch.isin(digests[val], digests[train])
            train, val = torch.cat([train, val[copies]]).sort().values, val[~copies]
    advice = "0 to train on all images" if by_content else "more, or 0 for none"
    single = "as each class has one image, or copies of one: give --data.val_size"
    check(len(val) > 0, f"{what} leaves none to validate on, {single} {advice}")
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
    return _divide(chosen)


def split_by_content(digests: Tensor, labels: Tensor, share: float, salt: str) -> tuple[Tensor, Tensor]:
    """Divides samples by what they are, whatever other samples there are: more samples leave each where it was.

    A sample is taken out if a hash of its content and ``salt`` is below ``share``. So equal samples stay together,
    whatever their labels, and sizes are met approximately. From a class of which none would be taken out, the sample
    with the lowest hash is, and from one of which none would stay, the sample with the highest hash stays.

    Args:
        digests: A number for the content of each sample, int64 (N,).
        labels: int64 (N,).
        share: Share of the samples to take out, above 0 and below 1.
        salt: Text that makes the hashes of one cut independent of those of any other.

    Returns:
        Indices of the samples that stay, and of those taken out, both ascending.
    """
    contents, content = torch.unique(digests, return_inverse=True)
    places = _hash(contents, salt)
    taken = places < share
    classes = [torch.unique(content[labels == label]) for label in torch.unique(labels)]
    for mine in classes:
        if len(mine) > 1 and not taken[mine].any():
            taken[mine[places[mine].argmin()]] = True
    for mine in classes:
        if taken[mine].all():
            taken[mine[places[mine].argmax()]] = False
    chosen = taken[content]
    return _divide(chosen)


def read_fold(text: str) -> tuple[int, int]:
    """Reads ``2/5``, the second of five folds, as its number and their number.

    Raises:
        UserError: It is something else.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    what = f"data.fold is {text}: write 2/5 for the second of five folds, of which there are two or more"
    check(count > 1 and 1 <= number <= count, what)
    return number, count


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
    contents, content = torch.unique(digests, return_inverse=True)
    check(
        count <= len(contents), f"data.fold: {len(contents):,} different images cannot be {count:,} folds: give fewer"
    )
    classes = torch.zeros_like(contents).scatter_reduce(0, content, labels, "amax")  # copies may have two labels
    order = _hash(contents, str(seed)).argsort()
    order = order[classes[order].argsort(stable=True)]
    folds = torch.empty_like(contents)
    folds[order] = torch.arange(len(contents)) % count + 1
    return folds[content]


def digest_images(images: Tensor | Rows) -> Tensor:
    """Returns a number for the pixels of each image, int64 (N,)."""
    parts = read_in_parts(images)
    return torch.tensor([digest_content(one.tobytes()) for part in parts for one in part.numpy()], dtype=torch.long)


def digest_content(content: bytes) -> int:
    """Returns a number of 64 bits, with a sign, for the content of an image or of a file."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)


def _hash(digests: Tensor, salt: str) -> Tensor:
    """Returns a number from 0 to 1 for each digest, float64 (N,)."""
    hashes = (hashlib.blake2b(f"{digest} {salt}".encode(), digest_size=6).digest() for digest in digests.tolist())
    return torch.tensor([int.from_bytes(content) / 2**48 for content in hashes], dtype=torch.float64)


def resolve_size(size: float, total: int) -> int:
    """Returns a number of samples, given as it is or as a share below 1."""
    return round(size * total) if 0 < size < 1 else int(size)


def digest_split(train_labels: Tensor, val_images: Tensor | Rows) -> str:
    """Returns 16 hexadecimal digits that change when another image is chosen for validation."""
    digest = hashlib.sha256(train_labels.numpy().tobytes())
    for part in read_in_parts(val_images):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]


def _divide(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the indices of the samples that stay, and of those chosen, bool (N,); both ascending."""
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
