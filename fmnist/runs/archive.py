"""Files of ``torch.save``, read as data.

Such a file is a ZIP archive of a pickle, ``data.pkl``, and the bytes of the tensors, ``data/0`` and so on. Memory is
allocated for what it contains, never for what it claims. The pickle is read by ``fmnist.runs.pickled``.
"""

import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fmnist.files import open_regular
from fmnist.runs.pickled import MAX_PICKLE, read_pickle

MAX_BYTES = 2**32 - 1  # of a file; above, torch writes longer entries
MAX_DIRECTORY = 1_000_000  # bytes: 10,000 tensors
MAX_SHARING = 16  # times the size of the file: tensors may share memory, as tied weights do
# Section 4.3 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT: the end for large archives, where it is,
# and the usual end
END = struct.Struct("<4sQ2H2L4Q4sLQL4s4H2LH")


def read_archive(path: Path) -> Any:
    """Reads what ``torch.save`` has written, if it is plain values and tensors.

    Returns:
        What ``torch.load`` returns; tensors are on the CPU.

    Raises:
        OSError: There is no such file, or it cannot be read.
        Exception: It is anything else, is damaged, or was made to take time or memory.
    """
    with open_regular(path, MAX_BYTES) as file:
        size = _check_end(file)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            parts = {entry.filename.partition("/")[2]: entry for entry in entries}
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or sum(entry.file_size for entry in entries) > size or "data.pkl" not in parts:
                raise ValueError("it is not an archive of torch")
            if parts["data.pkl"].file_size > MAX_PICKLE:
                raise ValueError("it has too many values")
            if "byteorder" in parts and archive.read(parts["byteorder"]) != sys.byteorder.encode():
                raise ValueError("it comes from a machine with another order of bytes")
            content = archive.read(parts["data.pkl"])
            return read_pickle(content, lambda key: _read(archive, parts[f"data/{key}"]), MAX_SHARING * size)


def _check_end(file: BinaryIO) -> int:
    """Refuses an archive whose end is not that of torch, or whose directory is too large. Returns its size in bytes."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END.size))
    found = file.read()
    count, length = (END.unpack(found)[field] for field in (6, 8))
    sizes = (count, count, length, size - END.size - length)
    large = (b"PK\6\6", 44, 0x31E, 45, 0, 0, *sizes, b"PK\6\7", 0, size - END.size, 1)
    if length > MAX_DIRECTORY or found != END.pack(*large, b"PK\5\6", 0, 0, *sizes, 0):
        raise ValueError("it is not an archive of torch")
    return size


def _read(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> Tensor:
    """Reads the bytes of a tensor, uint8 (N,)."""
    content = torch.empty(part.file_size, dtype=torch.uint8)
    with archive.open(part) as file:
        count = file.readinto(content.numpy().data)  # type: ignore[attr-defined]  # compares the check sum, too
        if count != part.file_size:
            raise ValueError("it has been cut off")
    return content
