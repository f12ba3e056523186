"""Converts any picture to what the network was trained on: for Fashion-MNIST 28 x 28, grey, light clothing on black.

For grey images the steps of ``distance`` are those by which the data set was made (Xiao, Rasul, Vollgraf 2017,
https://arxiv.org/abs/1708.07747, section 2): trim the border by the colour of the corners, resize
the longest edge to 28, sharpen, centre, negate, turn grey. Where the data set's makers negated, since
their paper was white, ``distance`` takes the distance of each pixel from the background, in colour:
an object of any colour stands out on any plain background. Images in colour keep their pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps
from torch import Tensor

SHAPE = (1, 28, 28)  # channels, height and width of Fashion-MNIST's images
MAX_PIXELS = (
    50_000_000  # checked before decoding; of a JPEG, which is decoded at a reduced size, the reduced pixels count
)
WORKING_SIDE = 1024  # larger pictures are reduced to this before anything else
CLOSE = 0.05  # colours nearer than this share of the largest distance belong to the border
WEAK = 0.65  # an object that is nowhere further from the background, as a share of what is possible, is stretched
FAINT = 0.03  # nothing stands out if no pixel is further
HOLLOW = 0.3  # share of an object that is as light as the background, from which on the note says so
STRIP = 200_000  # pixels that are scaled to 8 bits at once

SHARPEN = ImageFilter.UnsharpMask(radius=1, percent=50, threshold=0)
EMPTY = "nothing but background"
Conversion = Literal["distance", "resize", "crop"]


class Converted(NamedTuple):
    """A picture as the network sees it."""

    image: Tensor
    """uint8 (C, H, W)."""
    note: str
    """What was assumed; empty if nothing was."""
    empty: bool = False
    """Whether there is nothing but background."""


class PictureError(ValueError):
    """A picture cannot be read; the message says why."""


def convert(picture: Image.Image, conversion: Conversion = "distance", image_shape: Sequence[int] = SHAPE) -> Converted:
    """Converts a picture of any size and mode.

    With ``distance`` a grey picture on black that has the size already is taken as it is, bit for bit.

    Args:
        picture: Any picture.
        conversion: ``distance``, for grey, trims, centres and takes the distance from the background; ``resize`` fits
            in the whole picture, and fills edges with the border's colour, or stretches grey; ``crop`` fills the image
            from the middle of the picture.
        image_shape: Channels (1 for grey, 3 for colour), height and width of the image.

    Raises:
        PictureError: It has more than 50 million pixels, or none.
    """
    check_size(picture)
    channels, height, width = image_shape
    size = (width, height)
    if conversion == "resize" and channels == 1:
        return Converted(_to_tensor(picture.convert("L").resize(size, Image.Resampling.BOX)), "")
    notes: list[str] = []
    colored = _to_rgb(ImageOps.exif_transpose(picture), notes)
    background = _corners(colored, max(1, min(colored.size) // 40))
    if conversion == "crop":
        method = Image.Resampling.BOX if min(colored.size) > max(size) else Image.Resampling.BICUBIC
        cropped = ImageOps.fit(colored, size, method)
        return Converted(_to_tensor(cropped.convert("L") if channels == 1 else cropped), "; ".join(notes))
    if channels == 3:
        whole = _centre(_shrink(colored, size), size, background)
        return Converted(_to_tensor(whole), "; ".join(notes))
    light = sum(background) > 3 * 127
    if colored.size == size and not light and _is_grey(colored):
        empty = colored.getbbox() is None
        return Converted(_to_tensor(colored.convert("L")), "; ".join([*notes, *[EMPTY] * empty]), empty)
    box = _content(colored, background, _contrast(colored, background))
    small = _shrink(colored.crop(box), size)
    grey, empty = _stand_out(small, background, light, box is None, notes)
    return Converted(_to_tensor(_centre(grey.filter(SHARPEN), size)), "; ".join(notes), empty)


def _stand_out(
    small: Image.Image, background: tuple[int, ...], light: bool, empty: bool, notes: list[str]
) -> tuple[Image.Image, bool]:
    """Returns the distance from the background as a grey image, and whether there is nothing but background."""
    difference = np.asarray(small, dtype=np.float32) - np.asarray(background, dtype=np.float32)  # (H, W, 3)
    distance = _distance(small, background)
    strength = float(np.quantile(distance, 0.99))
    empty = empty or strength < FAINT
    darker = float((difference.mean(2) * distance).sum()) <= 0
    notes.append(EMPTY if empty else f"{'light' if light else 'dark'} background: {'inverted' if darker else 'kept'}")
    if not empty and strength < WEAK:
        notes.append("weak contrast: stretched")
        distance = distance / strength
    if not empty and _hollow(distance > 2 * CLOSE) > HOLLOW:
        notes.append("a large part is as light as the background")
    return Image.fromarray((255 * distance).clip(0, 255).round().astype(np.uint8)), empty


def _corners(picture: Image.Image, size: int) -> tuple[int, ...]:
    """Returns the median colour of the four corners, of some pixels along each edge."""
    ends = [*range(size), *range(-size, 0)]
    pixels = np.sort(np.asarray(picture)[ends][:, ends].reshape(-1, 3), axis=0).astype(int)
    middle = len(pixels) // 2  # there is an even number; np.median takes ten times as long for so few
    return tuple(((pixels[middle - 1] + pixels[middle]) // 2).tolist())


def _distance(picture: Image.Image, background: tuple[int, ...]) -> np.ndarray:
    """Returns how far each pixel is from the background, (H, W), as a share of what is possible there."""
    level = np.asarray(background, dtype=np.float32)
    possible = np.maximum(level, 255 - level)  # in the direction where there is more room
    squares = (np.asarray(picture, dtype=np.float32) - level) ** 2
    return np.asarray(np.sqrt(squares.mean(2) / (possible**2).mean()))


def _contrast(picture: Image.Image, background: tuple[int, ...]) -> float:
    """Returns how strong the contrast is compared with the usual one, from 0 to 1; noise counts as contrast."""
    distance = _distance(picture.reduce(max(1, max(picture.size) // 56)), background)
    border = np.concatenate([distance[[0, -1]].ravel(), distance[:, [0, -1]].ravel()])
    return min(1.0, max(0.05, float(np.quantile(distance, 0.99)) / WEAK, 2 * float(np.median(border)) / CLOSE))


def _hollow(mask: np.ndarray) -> float:
    """Returns the share of an object's mask, bool (H, W), that is background inside its outline."""
    filled = Image.fromarray(np.pad(mask, 1).astype(np.uint8)).copy()  # an image that shares memory cannot be filled
    ImageDraw.floodfill(filled, (0, 0), 2)
    inside = np.asarray(filled) != 2
    return float((np.asarray(filled)[inside] == 0).mean()) if inside.any() else 0.0


def _centre(small: Image.Image, size: tuple[int, int], background: tuple[int, ...] | int = 0) -> Image.Image:
    canvas = Image.new(small.mode, size, background)
    canvas.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
    return canvas


def check_size(picture: Image.Image) -> None:
    """Raises a ``PictureError`` for a picture of more than 50 million pixels, or none."""
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
    finite = (values if (known := np.isfinite(values)).all() else values[known] for values in _strips(picture))
    ends = [(float(values.min()), float(values.max())) for values in finite if values.size] or [(0.0, 0.0)]
    low, high = least, most = min(ends)[0], max(most for _, most in ends)
    if picture.mode != "F" and low >= 0 and high < 1 << 16:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
        low, high = 0.0, float((1 << bits) - 1)
        notes.append(f"taken as {bits} bits")
    grey, top = np.empty((picture.height, picture.width), np.uint8), 0
    for values in _strips(picture):
        if picture.mode == "F":
            values = np.nan_to_num(values, nan=least, posinf=most, neginf=least)
        scaled = (values - low) * (255 / max(high - low, 1e-9))
        grey[top : top + len(values)] = scaled.round(out=scaled)
        top += len(values)
    return Image.fromarray(grey)


def _strips(picture: Image.Image) -> Iterator[np.ndarray]:
    """Yields the rows of a picture, float32, a few at once: all together would take several times its memory."""
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        yield np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))), dtype=np.float32)


def _is_grey(picture: Image.Image) -> bool:
    pixels = np.asarray(picture)
    return bool((pixels == pixels[..., :1]).all())


def _content(
    picture: Image.Image, background: tuple[int, ...], contrast: float = 1.0
) -> tuple[int, int, int, int] | None:
    """Returns the box around everything that differs from the background; None if nothing does.

    Args:
        picture: In RGB.
        background: Its background's colour.
        contrast: From 0 to 1; the lower it is, the smaller a difference counts.
    """
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, background))
    table = [min(255, round(value / contrast)) ** 2 // 255 for value in range(256)]
    squares = [band.point(table, "L") for band in difference.split()]
    distance = ImageChops.add(ImageChops.add(squares[0], squares[1]), squares[2])  # squared, over 255
    limit = (CLOSE * 255) ** 2 * 3 / 255
    return distance.point([255 * (value > limit) for value in range(256)], "L").getbbox()


def _shrink(picture: Image.Image, within: tuple[int, int]) -> Image.Image:
    scale = min(side / longest for side, longest in zip(within, picture.size, strict=True))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)


def _to_tensor(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))  # (H, W), or (H, W, 3) in colour
    return pixels.movedim(-1, 0).contiguous() if pixels.ndim == 3 else pixels.unsqueeze(0)
