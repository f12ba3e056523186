"""Finds and reads picture files."""

import contextlib
import glob
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from fmnist.data.jpeg import check_scans, count_scans
from fmnist.data.photos import MAX_PIXELS, SHAPE, WORKING_SIDE, Conversion, Converted, PictureError, check_size, convert
from fmnist.errors import UserError, check

AVIF = bool(features.check("avif"))
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", *["AVIF"] * AVIF)  # none that runs another program, as EPS does
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", *[".avif"] * AVIF)
LARGE = 100_000  # bytes of a file from which on threads pay off, measured on two cores
PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"tRNS", b"eXIf")  # optional parts of a PNG that decide how its pixels look
MAX_BYTES = 200_000_000
# Folders that systems and programs make beside people's own
SYSTEM = {"@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found", "#recycle"}


def read_picture(
    path: str | Path | IO[bytes],
    transform: Callable[[Image.Image], Image.Image] | None = None,
    conversion: Conversion = "distance",
    image_shape: Sequence[int] = SHAPE,
) -> Converted:
    """Reads and converts a PNG, JPEG, WebP, BMP, GIF or TIFF file; of several frames the first.

    Args:
        path: The file, or its content as an open file.
        transform: Applied to the PIL image first.
        conversion: See ``convert``.
        image_shape: See ``convert``.

    Raises:
        PictureError: It is not a picture, is damaged, is larger than 200 MB or, once a JPEG is reduced, 50 million
            pixels, or takes too long to decode.
    """

    def change(picture: Image.Image) -> Converted:
        return convert(apply(transform, picture) if transform else picture, conversion, image_shape)

    if not isinstance(path, str | Path):
        return _read(path, change)
    path = Path(path)
    try:
        if not path.is_file():
            raise PictureError("is not a file" if path.exists() else "does not exist")
        if path.stat().st_size > MAX_BYTES:
            raise PictureError(f"has more than {MAX_BYTES // 1_000_000} MB")
        with path.open("rb") as file:
            return _read(file, change)
    except OSError as error:
        raise PictureError(error.strerror or "cannot be read") from error


def apply(transform: Callable[[Any], Any], picture: Image.Image) -> Image.Image:
    """Applies a custom transform, which may return a tensor of pixels from 0 to 1, as ToTensor does.

    Raises:
        UserError: The transform fails, or returns something that is not a picture.
    """
    name = getattr(transform, "__qualname__", type(transform).__name__)
    try:
        made = transform(picture)
    except Exception as error:
        raise UserError(f"the transform {name} failed: {type(error).__name__}: {error}") from error
    array = made.resolve_conj().numpy(force=True) if isinstance(made, Tensor) else made
    if isinstance(array, np.ndarray) and array.dtype.kind in "buif":
        values = torch.as_tensor(array)
        values = values.movedim(0, -1) if values.ndim == 3 and len(values) in (1, 3) else values
        if values.is_floating_point() and values.numel() and 0 <= values.min() <= values.max() <= 1:
            values = (values * 255).round()
        fits = not values.is_floating_point() or bool((values == values.round()).all())
        shaped = values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in (1, 3))
        if fits and shaped and values.numel() and 0 <= values.min() <= values.max() <= 255:
            made = Image.fromarray(values.to(torch.uint8).squeeze(-1).numpy())
    what = f"a {type(made).__name__}" + (f" of shape {tuple(made.shape)}" if hasattr(made, "shape") else "")
    check(isinstance(made, Image.Image), f"the transform {name} gave {what}, which is not a picture: give a PIL image")
    return cast(Image.Image, made)


def _read(file: IO[bytes], change: Callable[[Image.Image], Converted]) -> Converted:
    try:
        scans = count_scans(file)
        file.seek(0)
        # Image.open refuses what is large before it is reduced, as the JPEG of a phone with 200 megapixels
        with JpegImageFile(file) if scans else Image.open(file, formats=FORMATS) as picture:
            check_scans(picture, scans)
            picture.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # lets JPEG decode at a fraction of its size
            check_size(picture)
            _check_tiles(picture)
            _trim_exif(picture)
            return change(picture)
    except (PictureError, UserError):
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PictureError(f"has more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # decoders fail on damaged files in every way there is
        bare = _without_texts(file)
        if bare is not None:
            return _read(bare, change)
        if isinstance(error, UnidentifiedImageError):
            raise PictureError("is not a picture that can be read") from error
        raise PictureError(f"is damaged ({' '.join(str(error).split())[:80] or type(error).__name__})") from error


def _check_tiles(picture: Image.Image) -> None:
    """Refuses a TIFF whose tiles are larger than a picture may be: each is decoded whole, however small the picture."""
    tags: Any = getattr(picture, "tag_v2", {})
    pixels = tags.get(ExifTags.Base.TileWidth, 0) * tags.get(ExifTags.Base.TileLength, 0)
    if pixels > MAX_PIXELS:
        raise PictureError(f"has tiles of more than {MAX_PIXELS // 1_000_000} million pixels")


def _trim_exif(picture: Image.Image) -> None:
    """Removes all of a picture's EXIF but its orientation: Pillow may fail to write the rest."""
    if "exif" not in picture.info:
        return
    turn = None
    with contextlib.suppress(Exception):  # as damaged as it can be
        turn = picture.getexif().get(ExifTags.Base.Orientation)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn if turn in range(1, 9) else 1
    picture.info["exif"] = exif.tobytes()


def _without_texts(file: IO[bytes]) -> IO[bytes] | None:
    """Returns a PNG without texts and profiles, on which Pillow may fail; None if it has none."""
    file.seek(0)
    content = file.read()
    kept, start = [PNG], len(PNG)
    while content.startswith(PNG) and start + 8 <= len(content):
        size, kind = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        if kind[:1].isupper() or kind in PIXELS:
            kept.append(content[start : start + size + 12])
        start += size + 12
    bare = b"".join(kept)
    return io.BytesIO(bare) if content.startswith(PNG) and len(bare) < len(content) else None


def find_in_folder(folder: Path) -> list[str]:
    """Lists the files in a folder, and in all folders in it, that have the ending of a picture; sorted."""
    return sorted(file for file in walk(folder) if file.lower().endswith(SUFFIXES))


def find_matches(path: Path) -> list[str]:
    """Lists the files that match a pattern, each once, sorted; folders at its beginning are taken as named."""
    top = next(folder for folder in (path, *path.parents) if folder.exists())
    pattern = Path(glob.escape(str(top))) / path.relative_to(top)
    found = [name for name in glob.glob(str(pattern), recursive=True) if not Path(name).is_dir()]  # noqa: PTH207
    if "**" in path.parts:  # follows links, also in circles
        found = [*{os.path.realpath(name): name for name in sorted(found, reverse=True)}.values()]
    return sorted(found)


def walk(folder: Path) -> Iterator[str]:
    """Yields the files in a folder and all folders in it, each once, without those of the system; follows links."""
    # plain strings, as there may be a million
    seen = set()
    for top, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(top)
        if here in seen:  # links that form a circle
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (os.path.join(top, name) for name in names if not is_hidden(name))  # noqa: PTH118


def is_hidden(name: str) -> bool:
    """Returns whether a file or a folder is the system's, not the user's."""
    return name.startswith(".") or name.casefold() in SYSTEM


def pay_threads(files: Sequence[str]) -> bool:
    """Returns whether threads read these files faster than a loop: only large ones are decoded in parallel."""
    if not files:
        return False
    sample = files[:: max(1, len(files) // 10)]
    sizes = [os.path.getsize(file) for file in sample if os.path.isfile(file)]  # noqa: PTH113, PTH202 - many, as text
    return sum(sizes) > LARGE * len(sample)
