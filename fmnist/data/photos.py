"""Any picture becomes what the network was trained on: 28 x 28, grey, light clothing on black.

The steps are those by which the data set was made (Xiao, Rasul, Vollgraf 2017,
https://arxiv.org/abs/1708.07747, section 2): trim the border by the colour of the corners, resize
the longest edge to 28, sharpen, centre, negate, turn grey.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # none that runs another program, as EPS does
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LARGE = 100_000  # bytes of a file from which on threads pay off, measured on two cores
SIDE = 28
MAX_PIXELS = 50_000_000  # more are refused before they are decoded; a JPEG may have 64 times as many, as it is reduced
MAX_BYTES = 200_000_000
WORKING_SIDE = 1024  # larger pictures are reduced to this before anything else
CLOSE = 0.05  # colours nearer than this share of the largest distance belong to the border


class Converted(NamedTuple):
    """A picture as the network sees it."""

    image: Tensor
    """uint8 (1, 28, 28)."""
    note: str
    """What was assumed; empty if nothing was."""


class PictureError(ValueError):
    """A picture cannot be read; the message says why."""


def read_picture(
    path: str | Path | IO[bytes],
    transform: Callable[[Image.Image], Image.Image] | None = None,
    conversion: Callable[[Image.Image], Converted] | None = None,
) -> Converted:
    """Reads and converts a PNG, JPEG, WebP, BMP, GIF or TIFF file; of several frames the first.

    Args:
        path: The file, or its content as an open file.
        transform: Applied to the PIL image first.
        conversion: What to use instead of ``convert``.

    Raises:
        PictureError: It is no picture, is damaged, or is larger than 50 million pixels or 200 MB.
    """
    convert_it = conversion or convert
    change = (lambda picture: convert_it(transform(picture))) if transform else convert_it
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
            _check_size(picture)
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


def convert(picture: Image.Image) -> Converted:
    """Converts a picture of any size and mode.

    A grey picture of 28 x 28 on black is taken as it is, bit for bit.

    Raises:
        PictureError: It has more than 50 million pixels, or none.
    """
    _check_size(picture)
    notes: list[str] = []
    colored = _to_rgb(ImageOps.exif_transpose(picture), notes)
    background = tuple(np.median(np.asarray(colored)[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0).astype(int).tolist())
    light = sum(background) > 3 * 127
    if colored.size == (SIDE, SIDE) and not light and _is_grey(colored):
        if colored.getbbox() is None:
            notes.append("nothing but background")
        return Converted(_to_tensor(colored.convert("L")), "; ".join(notes))
    notes.append("light background: inverted" if light else "dark background: kept")
    box = _content(colored, background)
    if box is None:
        notes.append("nothing but background")
    small = _shrink(colored.crop(box)).filter(ImageFilter.UnsharpMask(radius=1, percent=50, threshold=0))
    canvas = Image.new("RGB", (SIDE, SIDE), background)
    canvas.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    level = Image.new("RGB", (1, 1), background).convert("L").tobytes()[0]
    return Converted(_to_tensor(_on_black(canvas.convert("L"), level, light)), "; ".join(notes))


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} million")
    if not width * height:
        raise PictureError("has no pixels")


def _to_rgb(picture: Image.Image, notes: list[str]) -> Image.Image:
    """Returns at most 1024 pixels a side, in RGB, transparency composed onto white, or black if white hides all."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _to_8_bits(picture, notes)
    transparent = picture.has_transparency_data
    picture = picture.convert("RGBA" if transparent else "RGB")
    picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    if not transparent:
        return picture
    if picture.getchannel("A").getextrema()[0] == 255:
        return picture.convert("RGB")
    for color, level in (("white", 255), ("black", 0)):
        composed = Image.alpha_composite(Image.new("RGBA", picture.size, color), picture).convert("RGB")
        if _content(composed, (level,) * 3):
            break  # what is as light as the paper needs a dark one
    notes.append(f"transparent: put on {color}")
    return composed


def _to_8_bits(picture: Image.Image, notes: list[str]) -> Image.Image:
    """Scales whole numbers by the bits they use; of floats, the smallest becomes black and the largest white."""
    values = np.asarray(picture, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if picture.mode != "F" and low >= 0 and high < 1 << 16:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
        low, high = 0.0, float((1 << bits) - 1)
        notes.append(f"taken as {bits} bits")
    scaled = (values - low) * (255 / max(high - low, 1e-9))
    return Image.fromarray(scaled.round().astype(np.uint8))


def _is_grey(picture: Image.Image) -> bool:
    red, green, blue = picture.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def _content(picture: Image.Image, background: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Returns the box around everything that differs from the background; None if nothing does."""
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, background))
    squares = [band.point([value**2 // 255 for value in range(256)], "L") for band in difference.split()]
    distance = ImageChops.add(ImageChops.add(squares[0], squares[1]), squares[2])  # squared, over 255
    limit = (CLOSE * 255) ** 2 * 3 / 255
    return distance.point([255 * (value > limit) for value in range(256)], "L").getbbox()


def _shrink(picture: Image.Image) -> Image.Image:
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)


def _on_black(grey: Image.Image, level: int, light: bool) -> Image.Image:
    """Makes the background, a level from 0 to 255, black, and inverts the picture if that is ``light``."""
    if light:
        return grey.point([max(0, round(255 * (level - value) / max(level, 1))) for value in range(256)])
    return grey.point([max(0, round(255 * (value - level) / max(255 - level, 1))) for value in range(256)])


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).unsqueeze(0)
