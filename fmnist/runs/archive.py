"""Files of ``torch.save``: looked through before anything in them is loaded, and then loaded as data."""

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fmnist.files import open_regular
from fmnist.plain import walk

MAX_BYTES = 2**32 - 1  # of a file; above, torch writes longer entries
MAX_ENTRIES = 10_000  # of an archive, one for each tensor
MAX_PICKLE, MAX_OPERATIONS = 4_000_000, 400_000  # bytes, and steps: 3,000 weights and their optimizer take half
MAX_VALUES = 100_000  # that come of them, each counted as often as it is reached
MAX_TUPLES = 20_000  # that lie in one: as a key, a tuple is looked through whole, shared parts again and again
MAX_SHARING = 16  # times the size of the file: several tensors may lie in the same memory, as tied weights do

# Section 4.3 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT: what stands before each part; and the
# end of the directory as torch writes it: that of large archives, where it is, and the usual one
LOCAL, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4sQ2H2L4Q4sLQL4s4H2LH")

KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat")
ORDERED = "collections OrderedDict"
GLOBALS = {  # what Lightning, torch and this package write into a checkpoint
    *(ORDERED, "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch.storage UntypedStorage"),
    *(f"torch {kind}Storage" for kind in (*KINDS, "ComplexDouble")),
    *(f"torch uint{bits}" for bits in (16, 32, 64)),
}
OPERATIONS = {  # those of pickle's protocol 2 that make plain values and tensors
    *(
        "PROTO",
        "STOP",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
    ),
    *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS"),
    *(
        "SETITEM",
        "SETITEMS",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
        "GLOBAL",
        "BINPERSID",
        "REDUCE",
        "BUILD",
    ),
}


def read_archive(path: Path) -> Any:
    """Reads what ``torch.save`` has written, if it is plain values and tensors; nothing in it is executed.

    Returns:
        What ``torch.load`` returns; tensors are on the CPU.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is anything else, is damaged, or is made to take time or memory.
    """
    with open_regular(path, MAX_BYTES) as file:
        _check_pickle(_check_archive(file))
        room = MAX_SHARING * file.seek(0, 2)
        file.seek(0)
        value = torch.load(file, map_location="cpu", weights_only=True)
    for node in walk(value, MAX_VALUES):
        if isinstance(node, Tensor):
            room -= node.nbytes
            if room < 0 or node.nbytes > node.untyped_storage().nbytes():
                raise ValueError("it has tensors that are larger than they are stored")
    return value


def _check_archive(file: BinaryIO) -> bytes:
    """Refuses an archive that two readers could read differently, or that becomes larger. Returns its ``data.pkl``."""
    start = _check_end(file)
    with zipfile.ZipFile(file) as archive:
        entries, place = archive.infolist(), 0
        if len({entry.filename.lower() for entry in entries}) < len(entries):  # torch does not look at the case
            raise ValueError("it holds a name twice")
        for entry in entries:
            file.seek(entry.header_offset)
            head = LOCAL.unpack(file.read(LOCAL.size))
            name = file.read(head[9])
            stored = entry.compress_type == head[3] == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
            same = head[0] == b"PK\3\4" and name.decode() == entry.orig_filename and head[7] in (0, entry.file_size)
            if not (stored and same and entry.header_offset >= place):
                raise ValueError(f"its part {entry.filename:.60} is not as torch writes it")
            place = entry.header_offset + LOCAL.size + head[9] + head[10] + entry.file_size
        pickled = archive.getinfo(f"{entries[0].filename.partition('/')[0]}/data.pkl")
        if place > start or pickled.file_size > MAX_PICKLE:
            raise ValueError("it has too many values, or its parts overlap")
        if archive.testzip():  # reads all, and compares the check sums
            raise ValueError("it is damaged")
        return archive.read(pickled)


def _check_end(file: BinaryIO) -> int:
    """Checks that the directory ends where the file does, in all of its descriptions. Returns where it begins."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END.size))
    found = file.read()
    if len(found) < END.size:
        raise ValueError("it is no archive")
    fields = END.unpack(found)
    count, length, start = fields[6], fields[8], fields[9]
    sizes, large = (count, count, length, start), (b"PK\6\6", 44, *fields[2:4], 0, 0)
    expected = (*large, *sizes, b"PK\6\7", 0, start + length, 1, b"PK\5\6", 0, 0, *sizes, 0)
    if fields != expected or start + length != size - END.size or not 0 < count <= MAX_ENTRIES:
        raise ValueError("it is no archive of torch")
    return int(start)


def _check_pickle(content: bytes) -> None:
    """Refuses a pickle that does more than make plain values and tensors, or that multiplies what it holds."""
    memo: dict[Any, Any] = {}  # of tuples how many lie in them, of the class of ordered dicts its name
    tuples, last, previous = 0, 0, ""
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name = operation.name
        if name not in OPERATIONS or (name == "GLOBAL" and argument not in GLOBALS) or number == MAX_OPERATIONS:
            raise ValueError(f"it holds something other than plain values: {name} {str(argument or '')[:60]}".rstrip())
        if "PUT" in name:
            memo[argument] = {"TUPLE": last, ORDERED: ORDERED}.get(previous)
            continue
        if previous == ORDERED and name != "EMPTY_TUPLE":  # else a list becomes as many dicts as are asked for
            raise ValueError("it makes dicts of something")
        found = memo.get(argument) if "GET" in name else argument if name == "GLOBAL" else None
        if name.startswith("TUPLE"):
            tuples = last = tuples + 1
        elif isinstance(found, int):
            tuples += found
        elif name.startswith(("SETITEM", "APPEND")):
            tuples = 0
        if tuples > MAX_TUPLES:
            raise ValueError("it has too many values")
        previous = "TUPLE" if name.startswith("TUPLE") else ORDERED if found == ORDERED else name
