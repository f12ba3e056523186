"""Limits on the cost of decoding a JPEG: a small file may take hours, or all memory."""

import re
from typing import IO

from PIL import Image

from fmnist.data.photos import PictureError

MAX_SCANS = 64  # cameras and programs write up to twenty
MAX_SCANNED = 1_800_000_000  # pixels in all scans together, which take two seconds
MAX_KEPT = 800_000_000  # bytes of coefficients, which are kept in memory if there are several scans, or may be
MAX_SEGMENTS = 10_000
START, SCAN, END = b"\xff\xd8", 0xDA, 0xD9
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # but for restarts and fillers, which have no length


def count_scans(file: IO[bytes]) -> int:
    """Counts the scans of a JPEG, for each of which the decoder walks through the whole picture.

    Segments are skipped by their length, as thumbnails in them have scans of their own. In the compressed data
    after the head of a scan no marker can stand but restarts.

    Args:
        file: A picture; other formats have no scans.

    Raises:
        PictureError: They are more than 64, or there are too many segments.
    """
    file.seek(0)
    if file.read(len(START)) != START:
        return 0
    content, scans, place = file.read(), 0, 0
    for _ in range(MAX_SEGMENTS):
        marker = MARKER.search(content, place)
        if marker is None or marker[0][1] == END:
            return scans
        scans += marker[0][1] == SCAN
        if scans > MAX_SCANS:
            raise PictureError(f"takes too long to decode: it has more than {MAX_SCANS} scans")
        place = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2]))
    raise PictureError(f"is damaged (more than {MAX_SEGMENTS:,} segments)")


def check_scans(picture: Image.Image, scans: int) -> None:
    """Refuses a picture that is too large for its scans: decoding at a reduced scale saves neither time nor memory.

    Args:
        picture: As it was opened.
        scans: What ``count_scans`` has found.

    Raises:
        PictureError: It would take more than about two seconds, or 1 GiB.
    """
    pixels, samplings = picture.width * picture.height, [layer[1:3] for layer in getattr(picture, "layer", ())]
    horizontal, vertical = (max([1, *sides]) for sides in zip((1, 1), *samplings, strict=True))
    kept = 2 * pixels * sum(one * other for one, other in samplings) / (horizontal * vertical)
    if scans * pixels > MAX_SCANNED or kept > MAX_KEPT:
        what = f"has {picture.width} x {picture.height} pixels, too many for a JPEG of {scans} scan"
        raise PictureError(what + "s" * (scans > 1))
