"""Files of ``torch.save``, read as data.

Such a file is a ZIP archive of a pickle, ``data.pkl``, and of the bytes of the tensors, ``data/0`` and so on. Here
the archive must be, byte for byte, as torch writes it, so that there is one way to read it. Of pickle's operations
only those are carried out that make plain values and tensors, by a table that is closed; nothing is imported or
called. Memory is taken for what lies in the file, never for what it claims.
"""

import io
import math
import pickletools
import re
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fmnist.files import open_regular
from fmnist.plain import walk

MAX_BYTES = 2**32 - 1  # of a file; above, torch writes longer entries
MAX_ENTRIES = 10_000  # of an archive, one for each tensor
MAX_PICKLE, MAX_OPERATIONS = 4_000_000, 400_000  # bytes, and steps: 3,000 weights and their optimizer take half
MAX_VALUES = 100_000  # that come of them, each counted as often as it is reached
MAX_AXES = 64  # of a tensor, as torch has it
MAX_SHARING = 16  # times the size of the file: several tensors may lie in the same memory, as tied weights do
# What torch calls the parts; no capital letters, which its own reader takes for small ones
PARTS = re.compile(rb"data\.pkl|data/\d+|byteorder|version|\.[a-z_/]+")

# Records of a ZIP archive, as section 4.3 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT has them
LOCAL, ENTRY, DESCRIPTOR = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s3L")
END = struct.Struct("<4sQ2H2L4Q4sLQL4s4H2LH")  # the end for large archives, where it is, and the usual end

LARGER = "it has tensors that are larger than they are stored"

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
ORDERED = "collections OrderedDict"
TENSORS = {"torch._utils _rebuild_tensor_v2": 6, "torch._utils _rebuild_tensor_v3": 7}  # and what they are given
DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch.storage UntypedStorage": torch.uint8,
    "torch uint16": torch.uint16,
    "torch uint32": torch.uint32,
    "torch uint64": torch.uint64,
}


class Part(NamedTuple):
    """What an archive holds under a name."""

    start: int
    """Where it begins in the file."""
    size: int
    """Bytes."""
    digest: int
    """CRC-32."""


def read_archive(path: Path) -> Any:
    """Reads what ``torch.save`` has written, if it is plain values and tensors.

    Returns:
        What ``torch.load`` returns; tensors are on the CPU.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is anything else, is damaged, or is made to take time or memory.
    """
    with open_regular(path, MAX_BYTES) as file:
        parts = _find_parts(file)
        if "data.pkl" not in parts or parts["data.pkl"].size > MAX_PICKLE:
            raise ValueError("it has no values, or too many")
        if "byteorder" in parts and _read(file, parts["byteorder"]).numpy().tobytes() != sys.byteorder.encode():
            raise ValueError("it comes from a machine with another order of bytes")
        machine = _Machine(lambda key: _read(file, parts[f"data/{key}"]), MAX_SHARING * file.seek(0, 2))
        try:
            return machine.run(_read(file, parts["data.pkl"]).numpy().tobytes())
        except (LookupError, TypeError, AttributeError) as error:  # what a damaged pickle ends in
            raise ValueError(f"its values are damaged: {error}") from error


def _find_parts(file: BinaryIO) -> dict[str, Part]:
    """Checks all of an archive but the content of its parts, which lie one behind the other without a gap."""
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
    """Reads the end of an archive: how many entries its directory has, how many bytes, and where it begins."""
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
    """Compares what stands before and behind a part with its entry in the directory.

    Args:
        file: The archive.
        place: Where the part must begin.
        name: Its name.
        entry: Its entry, without the name.
    """
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


@dataclass(frozen=True)
class _Global:
    """Stands for what a pickle would import."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Bytes of tensors, uint8 (size,), and their type."""

    content: Tensor
    dtype: torch.dtype


class _Machine:
    """Carries out the operations of a pickle.

    Args:
        load: Reads the bytes of a tensor by their number.
        room: Bytes that all tensors together may have.
    """

    def __init__(self, load: Callable[[str], Tensor], room: int) -> None:
        self.load, self.room = load, room
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.contents: dict[str, Tensor] = {}
        self.versions: list[Any] = []

    def run(self, content: bytes) -> Any:
        """Returns the value of a pickle."""
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if number == MAX_OPERATIONS:
                raise ValueError("it has too many values")
            self._step(operation.name, argument)
        value = self.stack.pop()
        for node in walk([value, self.versions], MAX_VALUES):
            self.room -= node.nbytes if isinstance(node, Tensor) else 0
            if isinstance(node, _Global | _Storage) or self.room < 0:
                raise ValueError("it holds something other than plain values" if self.room >= 0 else LARGER)
        return value

    def _step(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append(CONSTANTS[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                self.stack.append(argument)
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                self.stack.append(EMPTY[name]())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._take(int(name[-1]))))
            case "TUPLE":
                self.stack.append(tuple(self._take()))
            case "APPEND" | "APPENDS":
                self._append(self._take(1 if name == "APPEND" else None))
            case "SETITEM" | "SETITEMS":
                self._set_items(self._take(2 if name == "SETITEM" else None))
            case "GLOBAL":
                self.stack.append(_find(argument))
            case "BINPERSID":
                self.stack.append(self._storage(*self.stack.pop()))
            case "REDUCE":
                self.stack.append(self._make(*self._take(2)))
            case "BUILD":
                self._build(self.stack.pop())
            case _:
                raise ValueError(f"it asks for the operation {name}")

    def _take(self, count: int | None = None) -> list[Any]:
        """Takes values from the stack, all above the last mark if it is not said how many."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise ValueError("its values are damaged")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        for key, value in zip(values[::2], values[1::2], strict=True):
            # others could take hours to find in a dict: nested tuples, numbers that were chosen to collide
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**31):
                raise ValueError(f"it has a {type(key).__name__} as a key")
            if not isinstance(self.stack[-1], dict):
                raise ValueError("it has items of what is no dict")
            self.stack[-1][key] = value

    def _make(self, what: Any, given: tuple[Any, ...]) -> Any:
        """Does what a pickle would call a function for."""
        name = what.name if isinstance(what, _Global) else type(what).__name__
        if name == ORDERED and given == ():
            return OrderedDict()
        if len(given) != TENSORS.get(name):
            raise ValueError(f"it calls {name}")
        storage, offset, size, stride = given[:4]
        dtype = DTYPES[given[6].name] if len(given) == 7 else storage.dtype
        return self._tensor(storage.content, dtype, offset, size, stride)

    def _tensor(
        self, content: Tensor, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> Tensor:
        """Makes a tensor of bytes, uint8 (N,), if it has no more elements than there are, and none outside."""
        numbers = (offset, *size[:MAX_AXES], *stride[:MAX_AXES])
        if not (len(size) == len(stride) <= MAX_AXES and all(type(one) is int and 0 <= one < 2**31 for one in numbers)):
            raise ValueError("it has tensors of no shape")
        held, count = len(content) // dtype.itemsize, math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if count > held or (count and last >= held):
            raise ValueError(LARGER)
        return torch.empty(0, dtype=dtype).set_(content.untyped_storage(), offset, size, stride)

    def _storage(self, kind: Any, what: Any, key: Any, device: Any, count: Any) -> "_Storage":
        """Finds the bytes of a tensor, which the file holds once for all that share them."""
        dtype = DTYPES[what.name]
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise ValueError("it holds something other than tensors")
        if key not in self.contents:
            self.contents[key] = self.load(key)
        if count * dtype.itemsize != len(self.contents[key]):
            raise ValueError("it has tensors of another size than is stored")
        return _Storage(self.contents[key], dtype)

    def _build(self, state: Any) -> None:
        """Keeps the versions of modules that torch writes beside weights."""
        versions = state["_metadata"]
        nested = all(isinstance(about, dict) for about in versions.values())
        if not nested or len(state) != 1 or type(self.stack[-1]) is not OrderedDict:
            raise ValueError("it sets attributes")
        self.versions.append(versions)
        self.stack[-1]._metadata = versions  # type: ignore[attr-defined]


def _find(name: str) -> _Global:
    if name != ORDERED and name not in TENSORS and name not in DTYPES:
        raise ValueError(f"it names {name.replace(' ', '.')}, which is no plain value")
    return _Global(name)
