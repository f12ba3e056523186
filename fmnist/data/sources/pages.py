"""How large the pages of a Parquet file become, by their headers: pyarrow allocates what these say, unasked.

The metadata of a file give sizes as well, but nothing compares them with the pages. Headers are in Thrift's compact
form: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MAX_PAGES = 100_000  # of a file; each is read here by hand
UNCOMPRESSED, COMPRESSED = 2, 3  # fields of a header


def measure_pages(file: Path, metadata: Any, columns: list[int]) -> Iterator[int]:
    """Yields the size of every page of some columns, in bytes, once it is no longer compressed.

    Args:
        file: The Parquet file.
        metadata: Its metadata, as pyarrow reads them.
        columns: Numbers of the columns.

    Raises:
        ValueError: Pages are damaged, or there are too many.
    """
    count = 0
    with file.open("rb") as raw:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, columns):
                first = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
                start = min(first or chunk.data_page_offset, chunk.data_page_offset)
                for size in _measure_chunk(raw, start, start + chunk.total_compressed_size):
                    count += 1
                    if count > MAX_PAGES:
                        raise ValueError(f"it has more than {MAX_PAGES:,} pages")
                    yield size


def _measure_chunk(raw: IO[bytes], start: int, end: int) -> Iterator[int]:
    while start < end:
        raw.seek(start)
        try:
            header = _read_struct(raw)
            start = raw.tell() + header[COMPRESSED]
            sizes = header[UNCOMPRESSED], header[COMPRESSED]
        except (IndexError, KeyError, OSError, RecursionError) as error:
            raise ValueError("its pages are damaged") from error
        if min(sizes) < 0:
            raise ValueError("its pages are damaged")
        yield sizes[0]


def _read_struct(raw: IO[bytes]) -> dict[int, int]:
    """Returns the whole numbers of 32 bits in a struct, by the numbers of their fields, and skips the rest."""
    found, number = dict[int, int](), 0
    while head := raw.read(1)[0]:
        step, kind = divmod(head, 16)
        number = (number + step if step else _read_number(raw)) & 0xFFFF  # of 16 bits, as Thrift has them
        if kind == 5:
            found[number] = _read_number(raw)
        else:
            _skip(raw, kind)
    return found


def _skip(raw: IO[bytes], kind: int) -> None:
    if kind in (4, 6):
        _read_number(raw)
    elif kind == 12:
        _read_struct(raw)
    else:  # text; a boolean, which is in the head; a byte; a float of 64 bits
        raw.seek(_read_varint(raw) if kind == 8 else {1: 0, 2: 0, 3: 1, 7: 8}[kind], os.SEEK_CUR)


def _read_number(raw: IO[bytes]) -> int:
    value = _read_varint(raw)
    return value >> 1 ^ -(value & 1)


def _read_varint(raw: IO[bytes]) -> int:
    value = 0
    for place in range(10):
        byte = raw.read(1)[0]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value
    raise IndexError
