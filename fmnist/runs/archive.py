"""Files of ``torch.save``, read as data.

Such a file is a ZIP archive of a pickle, ``data.pkl``, and the bytes of the tensors, ``data/0`` and so on. It must be
exactly as torch writes it, so that it can be read in one way only; memory is allocated for what it contains, never for
what it claims. The pickle is read by ``fmnist.runs.pickled``.
"""

import io
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fmnist.files import open_regular
from fmnist.runs.pickled import MAX_PICKLE, read_pickle

MAX_BYTES = 2**32 - 1  # of a file; above, torch writes longer entries
MAX_ENTRIES = 10_000  # of an archive, one for each tensor
MAX_SHARING = 16  # times the size of the file: tensors may share memory, as tied weights do
# Names of the parts; no capital letters, which torch's own reader takes for small ones
PARTS = re.compile(rb"data\.pkl|data/\d+|byteorder|version|\.[a-z_/]+")

# Records of a ZIP archive, section 4.3 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
LOCAL, ENTRY, DESCRIPTOR = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s3L")
END = struct.Struct("<4sQ2H2L4Q4sLQL4s4H2LH")  # the end for large archives, where it is, and the usual end


class Part(NamedTuple):
    """A file in an archive.

    Args:
        start: Its place in the archive, in bytes.
        size: Bytes.
        digest: CRC-32.
    """

    start: int
    size: int
    digest: int


def read_archive(path: Path) -> Any:
    """Reads what ``torch.save`` has written, if it is plain values and tensors.

    Returns:
        What ``torch.load`` returns; tensors are on the CPU.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is anything else, is damaged, or was made to take time or memory.
    """
    with open_regular(path, MAX_BYTES) as file:
        parts = _find_parts(file)
        if "data.pkl" not in parts or parts["data.pkl"].size > MAX_PICKLE:
            raise ValueError("it has no values, or too many")
        if "byteorder" in parts and _read(file, parts["byteorder"]).numpy().tobytes() != sys.byteorder.encode():
            raise ValueError("it comes from a machine with another order of bytes")
        content = _read(file, parts["data.pkl"]).numpy().tobytes()
        room = MAX_SHARING * os.fstat(file.fileno()).st_size
        return read_pickle(content, lambda key: _read(file, parts[f"data/{key}"]), room)


def _find_parts(file: BinaryIO) -> dict[str, Part]:
    """Checks all of an archive but the content of its parts, which must follow one another without a gap."""
    count, length, end = _read_end(file)
    directory = io.BytesIO(_read_at(file, end, length))
    parts: dict[str, Part] = {}
    roots, place = set(), 0
    for _ in range(count):
        entry = _read_at(directory, directory.tell(), ENTRY.size)
        name = _read_at(directory, directory.tell(), ENTRY.unpack(entry)[10])
        part = _check_part(file, place, name, entry)
        root, _, short = name.partition(b"/")
        if not PARTS.fullmatch(short) or short.decode() in parts:
            raise ValueError(f"it holds {name!r:.60}")
        roots.add(root)
        parts[short.decode()] = part
        place = part.start + part.size + (DESCRIPTOR.size if part.size else 0)
    if (place, directory.tell(), len(roots)) != (end, length, 1):
        raise ValueError("its directory is not that of torch")
    return parts


def _read_end(file: BinaryIO) -> tuple[int, int, int]:
    """Returns the number of entries of an archive's directory, its size in bytes, and its place."""
    size = file.seek(0, 2)
    found = _read_at(file, max(0, size - END.size), END.size)
    count, length = (END.unpack(found)[field] for field in (6, 8))
    place = size - END.size - length
    if count > MAX_ENTRIES or place < 0:
        raise ValueError("it is no archive")
    sizes = (count, count, length, place)
    large = (b"PK\6\6", 44, 0x31E, 45, 0, 0, *sizes, b"PK\6\7", 0, place + length, 1)
    if found != END.pack(*large, b"PK\5\6", 0, 0, *sizes, 0):
        raise ValueError("it is no archive of torch")
    return count, length, place


def _check_part(file: BinaryIO, place: int, name: bytes, entry: bytes) -> Part:
    """Compares the records before and after a part with its entry in the directory, without its name."""
    digest, size = (ENTRY.unpack(entry)[field] for field in (7, 9))
    head = _read_at(file, place, LOCAL.size + len(name) + 4)
    padding, flags = LOCAL.unpack(head[: LOCAL.size])[10], 0x808 if size else 0x800
    start = place + LOCAL.size + len(name) + padding
    descriptor = DESCRIPTOR.pack(b"PK\7\b", digest, size, size) if size else b""
    right = (
        entry == ENTRY.pack(b"PK\1\2", 0, 0, flags, 0, 0, 0, digest, size, size, len(name), 0, 0, 0, 0, 0, place)
        and head == LOCAL.pack(b"PK\3\4", 0, flags, *[0] * 6, len(name), padding) + name + _padding(padding)
        and descriptor == _read_at(file, start + size, len(descriptor))
    )
    if not right:
        raise ValueError(f"its part {name!r:.60} is not as torch writes it")
    return Part(start, size, digest)


def _padding(size: int) -> bytes:
    return struct.pack("<2sH", b"FB", max(0, size - 4))


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    content = file.read(size)
    if len(content) < size:
        raise ValueError("it has been cut off")
    return content


def _read(file: BinaryIO, part: Part) -> Tensor:
    """Reads the bytes of a part, uint8 (size,)."""
    content = torch.empty(part.size, dtype=torch.uint8)
    view = content.numpy().data
    file.seek(part.start)
    if file.readinto(view) != part.size or zlib.crc32(view) != part.digest:  # type: ignore[attr-defined]
        raise ValueError("it is damaged")
    return content
