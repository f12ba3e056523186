"""Picture files: which are read, and how."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from fmnist.data.photos import MAX_PIXELS, WORKING_SIDE, Conversion, Converted, PictureError, check_size, convert

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # none that runs another program, as EPS does
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LARGE = 100_000  # bytes of a file from which on threads pay off, measured on two cores
MAX_BYTES = 200_000_000


def read_picture(
    path: str | Path | IO[bytes],
    transform: Callable[[Image.Image], Image.Image] | None = None,
    conversion: Conversion = "photo-2",
) -> Converted:
    """Reads and converts a PNG, JPEG, WebP, BMP, GIF or TIFF file; of several frames the first.

    Args:
        path: The file, or its content as an open file.
        transform: Applied to the PIL image first.
        conversion: See ``convert``.

    Raises:
        PictureError: It is no picture, is damaged, or is larger than 50 million pixels or 200 MB.
    """

    def change(picture: Image.Image) -> Converted:
        return convert(transform(picture) if transform else picture, conversion)

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


def _read(file: IO[bytes], change: Callable[[Image.Image], Converted]) -> Converted:
    try:
        with Image.open(file, formats=FORMATS) as picture:
            picture.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # lets JPEG decode at a fraction of its size
            check_size(picture)
            return change(picture)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError("is not a picture that can be read") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PictureError(f"has more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # decoders fail on damaged files in every way there is
        raise PictureError(f"is damaged ({' '.join(str(error).split())[:80] or type(error).__name__})") from error


def find_in_folder(folder: Path) -> list[str]:
    """Lists the files in a folder, and in all folders in it, that have the ending of a picture; sorted."""
    # plain strings, as there may be a million
    found = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]  # noqa: PTH118
    return sorted(name for name in found if name.lower().endswith(SUFFIXES))


def pay_threads(files: Sequence[str]) -> bool:
    """Tells whether threads read these files faster than a loop: Python lets only large ones decode side by side."""
    if not files:
        return False
    sample = files[:: max(1, len(files) // 10)]
    sizes = [os.path.getsize(file) for file in sample if os.path.isfile(file)]  # noqa: PTH113, PTH202 - many, as text
    return sum(sizes) > LARGE * len(sample)
