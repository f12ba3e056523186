"""Picture files as tensors: decoded in parallel once, then read from a cache."""

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
from fmnist.errors import UserError
from fmnist.files import atomic_path

SHARE = 64  # pictures that a thread takes at once
FORMAT = "1"  # changes when the same file is decoded in another way


class Picture(NamedTuple):
    """A picture that has not been decoded yet."""

    place: str
    """Where it stands, for an error message."""
    file: str
    content: bytes | None = None
    """Its content, if it lies inside ``file``; otherwise ``file`` is the picture."""


def decode(pictures: Sequence[Picture], conversion: Conversion, transform: Callable[[Any], Any] | None) -> Tensor:
    """Decodes pictures, or takes them from the cache.

    The cache holds one file for each list of pictures. It is used only if every file still has the size
    and the times of modification and change that it had, and replaced otherwise. Pictures with a
    transform are not cached, as nobody can tell whether a function has changed.

    Args:
        pictures: What to decode.
        conversion: See ``convert``.
        transform: Applied to each PIL image before the conversion.

    Returns:
        uint8 (N, 1, 28, 28).

    Raises:
        UserError: A picture cannot be read; the message says which and why.
    """
    if transform or not pictures:
        return _decode(pictures, conversion, transform)
    name = hashlib.sha256("\n".join([FORMAT, conversion, *(p.place for p in pictures)]).encode(errors="replace"))
    folder = Path(os.environ.get("FMNIST_CACHE") or platformdirs.user_cache_dir("fmnist"))
    path = folder / f"{name.hexdigest()[:32]}.npz"
    state = _state(pictures)
    cached = _read_cache(path, state, len(pictures))
    if cached is None:
        cached = _decode(pictures, conversion, None)
        _write_cache(path, state, cached)
    return cached


def _state(pictures: Sequence[Picture]) -> str:
    digest = hashlib.sha256()
    for file in dict.fromkeys(picture.file for picture in pictures):
        found = os.stat(file)  # noqa: PTH116 - there may be a million
        digest.update(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def _read_cache(path: Path, state: str, count: int) -> Tensor | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            images = saved["images"]
            fits = str(saved["state"]) == state and images.shape == (count, 1, SIDE, SIDE) and images.dtype == np.uint8
            return torch.from_numpy(images) if fits else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, state: str, images: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, images=images.numpy(), state=np.array(state))
    except OSError:
        return  # a cache that cannot be written costs time only


def _decode(pictures: Sequence[Picture], conversion: Conversion, transform: Callable[[Any], Any] | None) -> Tensor:
    def one(picture: Picture) -> Tensor:
        content = picture.file if picture.content is None else io.BytesIO(picture.content)
        try:
            return read_picture(content, transform, conversion).image
        except PictureError as error:
            raise UserError(f"{picture.place} {error}") from error

    def some(start: int) -> None:
        for index in range(start, min(start + SHARE, len(pictures))):
            images[index] = one(pictures[index])

    images = torch.empty(len(pictures), 1, SIDE, SIDE, dtype=torch.uint8)
    files = list(dict.fromkeys(picture.file for picture in pictures if picture.content is None))
    with ThreadPoolExecutor() as pool:
        for _ in (pool.map if pay_threads(files) else map)(some, range(0, len(pictures), SHARE)):
            pass  # an error comes out here
    return images
