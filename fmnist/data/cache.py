"""Decodes picture files to tensors, in parallel, once: then they are read from a cache."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
import torch
from torch import Tensor

from fmnist.data.photos import SIDE, Conversion, PictureError
from fmnist.data.read import pay_threads, read_picture
from fmnist.data.split import digest_content
from fmnist.errors import check
from fmnist.files import atomic_path

NAMED = 10  # pictures that a message lists
CHUNK = 64  # pictures that a thread takes at once
FORMAT = "3"  # changes when the same file is decoded in another way


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
    """uint8 (N, 1, 28, 28)."""
    digests: Tensor
    """A number for the content of each file, int64 (N,)."""
    kept: Tensor
    """Indices of the pictures that could be read, int64 (N,)."""
    notice: str
    """A line about those that could not; empty if all could."""


def decode(
    pictures: Sequence[Picture],
    conversion: Conversion,
    transform: Callable[[Any], Any] | None,
    skip_broken: bool = False,
) -> Decoded:
    """Decodes pictures, or reads them from the cache.

    The cache holds one file for each list of pictures. It is used only if every file still has the size
    and the times of modification and change that it had, and replaced otherwise. Pictures with a
    transform are not cached: a change of its code would not be noticed.

    Args:
        pictures: What to decode.
        conversion: See ``convert``.
        transform: Applied to each PIL image before the conversion.
        skip_broken: Leave out pictures that cannot be read.

    Raises:
        UserError: Pictures cannot be read; the message lists which and why.
    """
    folder = _cache_folder()
    if transform or not pictures or folder is None:
        return _decode(pictures, conversion, transform, skip_broken)
    what = [FORMAT, conversion, str(skip_broken), *(p.place for p in pictures)]
    name = hashlib.sha256("\n".join(what).encode(errors="replace"))
    path = folder / f"{name.hexdigest()[:32]}.npz"
    state = _state(pictures)
    cached = _read_cache(path, state)
    if cached is None:
        cached = _decode(pictures, conversion, None, skip_broken)
        _write_cache(path, state, cached)
    return cached


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


def _read_cache(path: Path, state: str) -> Decoded | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            images, digests, kept = (saved[name] for name in ("images", "digests", "kept"))
            fits = str(saved["state"]) == state and images.shape == (len(kept), 1, SIDE, SIDE)
            right = images.dtype == np.uint8 and digests.dtype == kept.dtype == np.int64 and digests.shape == kept.shape
            images, digests, kept = (torch.from_numpy(values) for values in (images, digests, kept))
            return Decoded(images, digests, kept, str(saved["notice"])) if fits and right else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, state: str, decoded: Decoded) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part, part.open("wb") as file:
            arrays: dict[str, Any] = {name: np.asarray(values) for name, values in decoded._asdict().items()}
            np.savez(file, state=np.array(state), **arrays)
    except OSError:
        return  # as on a file system that is read-only: then pictures are decoded again


def _decode(
    pictures: Sequence[Picture],
    conversion: Conversion,
    transform: Callable[[Any], Any] | None,
    skip_broken: bool,
) -> Decoded:
    images = torch.empty(len(pictures), 1, SIDE, SIDE, dtype=torch.uint8)
    digests = torch.zeros(len(pictures), dtype=torch.long)
    broken: dict[int, str] = {}

    def one(index: int, picture: Picture) -> None:
        content = picture.file if picture.content is None else io.BytesIO(picture.content)
        try:
            images[index] = read_picture(content, transform, conversion).image
            digests[index] = _digest(picture)
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
    return Decoded(images[kept], digests[kept], kept, notice)


def _describe(broken: list[str], total: int, skip_broken: bool) -> str:
    some = "; ".join(broken[:NAMED]) + (f"; and {len(broken) - NAMED:,} more" if len(broken) > NAMED else "")
    check(
        skip_broken,
        f"{some}: repair or remove {'it' if len(broken) == 1 else 'them'}, or leave out what cannot be "
        f"read with --data.source.skip_broken true",
    )
    return f"{len(broken):,} of {total:,} pictures cannot be read and are left out: {some}"


def _digest(picture: Picture) -> int:
    """Returns a number for the content of a picture."""
    content = Path(picture.file).read_bytes() if picture.content is None else picture.content
    return digest_content(content)
