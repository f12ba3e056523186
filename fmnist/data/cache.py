"""Decodes picture files, in parallel and once, into a file of a cache that is mapped into memory."""

import contextlib
import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
import torch
from torch import Tensor

from fmnist.data.photos import Conversion, PictureError
from fmnist.data.read import pay_threads, read_picture
from fmnist.data.split import digest_content
from fmnist.errors import UserError, check
from fmnist.files import atomic_path

NAMED = 10  # pictures that a message lists
SPARE, LARGE = 1_000_000, 10_000_000  # bytes that stay free on the disk; of a file that is worth a line
CHUNK = 64  # pictures that a thread takes at once
FORMAT = "4"  # changes when the same file is decoded in another way


class Picture(NamedTuple):
    """A picture that has not been decoded yet."""

    place: str
    """Its file, or the place in a file, for an error message."""
    file: str
    content: bytes | None = None
    """Its content, if it is inside ``file``; otherwise ``file`` is the picture."""


class Decoded(NamedTuple):
    """Pictures as tensors."""

    images: Tensor
    """uint8 (N, C, H, W), also for those that could not be read."""
    digests: Tensor
    """A number for the content of each file that could be read, int64 (K,)."""
    kept: Tensor
    """Indices of the pictures that could be read, int64 (K,)."""
    notice: str
    """A line about those that could not; empty if all could."""


def decode(
    pictures: Sequence[Picture],
    how: tuple[Conversion, tuple[int, int, int]],
    transform: Callable[[Any], Any] | None,
    skip_broken: bool,
    warn: Callable[[str], None],
) -> Decoded:
    """Decodes pictures into a file of the cache, or finds them in it; the file is mapped into memory.

    The cache holds one file for each list of pictures. It is used only if every file still has the size
    and the times of modification and change that it had, and replaced otherwise. Pictures with a
    transform are decoded into memory: a change of its code would not be noticed.

    Args:
        pictures: What to decode.
        how: The conversion, and the shape of the images; see ``convert``.
        transform: Applied to each PIL image before the conversion.
        skip_broken: Leave out pictures that cannot be read.
        warn: Prints a line, for a file that is large.

    Raises:
        UserError: Pictures cannot be read; the message lists which and why. Or the disk is too full for the file.
    """
    shape, folder = (len(pictures), *how[1]), _cache_folder()
    if transform or not pictures or folder is None:
        return _decode(pictures, torch.empty(shape, dtype=torch.uint8), how, transform, skip_broken)
    what = [FORMAT, str(how), str(skip_broken), *(p.place for p in pictures)]
    name = hashlib.sha256("\n".join(what).encode(errors="replace"))
    path, state = folder / f"{name.hexdigest()[:32]}.npy", _state(pictures)
    if found := _read_cache(path, state, shape):
        return found
    if not _is_writable(folder):
        return _decode(pictures, torch.empty(shape, dtype=torch.uint8), how, None, skip_broken)
    size, free = math.prod(shape), shutil.disk_usage(folder).free
    lacking = f"{len(pictures):,} images take {size / 1e9:,.1f} GB in {folder}, where {free / 1e9:,.1f} GB are free"
    check(1.01 * size + SPARE < free, f"{lacking}: free some, or name another folder in FMNIST_CACHE")
    if size >= LARGE:
        warn(f"{len(pictures):,} images are decoded into {path}, {size / 1e9:,.2f} GB")
    with atomic_path(path) as part:
        mapped = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        with part.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if hasattr(os, "posix_fallocate"):  # later a write to a mapped page cannot report a full disk
                os.posix_fallocate(file.fileno(), 0, end)
            decoded = _decode(pictures, torch.from_numpy(mapped), how, None, skip_broken)
            mapped.flush()
            for values in (decoded.digests.numpy(), decoded.kept.numpy(), np.array([state, decoded.notice])):
                np.save(file, values, allow_pickle=False)
        del mapped, decoded  # Windows moves no file that is mapped
    if found := _read_cache(path, state, shape):
        return found
    raise UserError(f"data.source: {path} was changed while it was written: try again")


def _cache_folder() -> Path | None:
    """Returns the folder of the cache; None for a user who has no home."""
    try:
        return Path(os.environ.get("FMNIST_CACHE") or platformdirs.user_cache_dir("fmnist"))
    except (RuntimeError, KeyError, OSError):
        return None


def _state(pictures: Sequence[Picture]) -> str:
    digest = hashlib.sha256()
    for file in dict.fromkeys(picture.file for picture in pictures):
        found = os.stat(file)  # noqa: PTH116 - there may be a million
        digest.update(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def _is_writable(folder: Path) -> bool:
    """Returns whether the folder is there, or can be made, and written to."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder.is_dir() and os.access(folder, os.W_OK)


def _read_cache(path: Path, state: str, shape: tuple[int, ...]) -> Decoded | None:
    try:
        with path.open("rb") as file:
            images = np.load(path, mmap_mode="c", allow_pickle=False)  # private: nobody can change the file
            file.seek(images.offset + images.nbytes)
            digests, kept, (saved, notice) = (np.load(file, allow_pickle=False) for _ in range(3))
    except (OSError, ValueError, EOFError, AttributeError):
        return None
    right = (images.shape, images.dtype, digests.dtype, kept.dtype) == (shape, np.uint8, np.int64, np.int64)
    if saved != state or not right or digests.shape != kept.shape:
        return None
    return Decoded(torch.from_numpy(images), torch.from_numpy(digests), torch.from_numpy(kept), str(notice))


def _decode(
    pictures: Sequence[Picture],
    images: Tensor,
    how: tuple[Conversion, tuple[int, int, int]],
    transform: Callable[[Any], Any] | None,
    skip_broken: bool,
) -> Decoded:
    """Decodes pictures into ``images``, uint8 (N, C, H, W)."""
    digests = torch.zeros(len(pictures), dtype=torch.long)
    broken: dict[int, str] = {}

    def one(index: int, picture: Picture) -> None:
        file = picture.file if picture.content is None else io.BytesIO(picture.content)
        try:
            images[index] = read_picture(file, transform, *how).image
            content = Path(picture.file).read_bytes() if picture.content is None else picture.content
            digests[index] = digest_content(content)
        except PictureError as error:
            broken[index] = f"{picture.place} {error}"

    def some(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(pictures))):
            one(index, pictures[index])

    files = list(dict.fromkeys(picture.file for picture in pictures if picture.content is None))
    with ThreadPoolExecutor() as pool:
        for _ in (pool.map if pay_threads(files) else map)(some, range(0, len(pictures), CHUNK)):
            pass  # an error comes out here
    notice = _describe([broken[index] for index in sorted(broken)], len(pictures), skip_broken) if broken else ""
    kept = torch.tensor([index for index in range(len(pictures)) if index not in broken], dtype=torch.long)
    return Decoded(images, digests[kept], kept, notice)


def _describe(broken: list[str], total: int, skip_broken: bool) -> str:
    some = "; ".join(broken[:NAMED]) + (f"; and {len(broken) - NAMED:,} more" if len(broken) > NAMED else "")
    check(
        skip_broken,
        f"{some}: repair or remove {'it' if len(broken) == 1 else 'them'}, or leave out what cannot be "
        f"read with --data.source.skip_broken true",
    )
    return f"{len(broken):,} of {total:,} pictures cannot be read and are left out: {some}"
