"""Pickles of plain values and tensors, read as data.

A closed table holds the operations that build plain values and tensors, and another what they may name: nothing is
imported, and only the functions below are called.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, ClassVar

import torch
from torch import Tensor

from fmnist.limits import walk

MAX_PICKLE = 4_000_000  # bytes: 3,000 weights and their momentum need a seventh
MAX_OPERATIONS = 300_000  # 3,000 weights and their momentum need 244,000
MAX_VALUES = 100_000  # in the result, each counted as often as it is reached
MAX_AXES, MAX_VERSIONS = 64, 100  # of a tensor, as in torch; sets of weights with the versions of their modules

PLAIN = (NoneType, bool, int, float, str, list, tuple, dict, Tensor)
OPERATIONS = b"".join(
    [
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
        *(pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_TUPLE, pickle.TUPLE1),
        *(pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE, pickle.APPEND, pickle.APPENDS, pickle.MARK, pickle.BINPUT),
        *(pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.BINPERSID, pickle.REDUCE),
        *(pickle.PROTO, pickle.STOP),
    ]
)
DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.uint16": torch.uint16,
    "torch.uint32": torch.uint32,
    "torch.uint64": torch.uint64,
}


def read_pickle(content: bytes, load: Callable[[str], Tensor], room: int) -> Any:
    """Reads the values of a pickle of ``torch.save``.

    Args:
        content: The pickle.
        load: Reads the bytes of a tensor, uint8 (N,), by name.
        room: Bytes that all tensors together may have, each counted as often as it is reached.

    Raises:
        Exception: It holds anything but plain values and tensors, is damaged, or was made to take time or memory.
    """
    unpickler = _Unpickler(content, load)
    value = unpickler.load()
    for node in walk([value, unpickler.versions], MAX_VALUES):
        if not isinstance(node, PLAIN):
            raise ValueError("it holds something other than plain values")
        room -= node.nbytes if isinstance(node, Tensor) else 0
        if room < 0:
            raise ValueError("it has tensors that are larger than they are stored")
    return value


@dataclass(frozen=True)
class _Storage:
    """Bytes of tensors, uint8 (size,), and their type."""

    content: Tensor
    dtype: torch.dtype


class _Operations(io.BytesIO):
    """The bytes of a pickle; raises once too many operations have been read, each of which begins with one byte."""

    left = MAX_OPERATIONS

    def read(self, size: int | None = -1) -> bytes:
        """Reads bytes, and counts reads of one."""
        self.left -= size == 1
        if self.left < 0:
            raise ValueError("it has too many values")
        return super().read(size)


# The one in C has no table of operations, and allocates memory for what a file claims
class _Unpickler(pickle._Unpickler):
    """Python's unpickler with fewer operations; for arguments see ``read_pickle``."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, content: bytes, load: Callable[[str], Tensor]) -> None:
        super().__init__(_Operations(content))
        self.load_content = load
        self.contents: dict[str, Tensor] = {}
        self.versions: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        """Returns the object for a name from a closed table; nothing is imported."""
        path = f"{module}.{name}"
        if path not in GLOBALS:
            raise ValueError(f"it names {path!r:.60}, which is not a plain value")
        return GLOBALS[path]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the bytes of a tensor, which are read once for all tensors that share them."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise ValueError("it holds something other than tensors")
        if key not in self.contents:
            self.contents[key] = self.load_content(key)
        if count * dtype.itemsize != len(self.contents[key]):
            raise ValueError("it has tensors of another size than is stored")
        return _Storage(self.contents[key], dtype)

    def set_item(self) -> None:
        """Does what SETITEM does."""
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def set_items(self) -> None:
        """Does what SETITEMS does."""
        self._set_items(self.pop_mark())

    def _set_items(self, values: list[Any]) -> None:
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys could take hours to hash: nested tuples, numbers that were chosen to collide.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**31):
                raise ValueError(f"it has a {type(key).__name__} as a key")
            self.stack[-1][key] = value

    def build(self) -> None:
        """Does what BUILD does: keeps the versions of modules that torch saves with weights."""
        state = self.stack.pop()
        self.versions.append(state)
        known = state.keys() == {"_metadata"} and len(self.versions) <= MAX_VERSIONS
        if not known or type(self.stack[-1]) is not OrderedDict:
            raise ValueError("it sets attributes")
        if not all(type(about) is dict for about in state["_metadata"].values()):
            raise ValueError("its versions are damaged")
        vars(self.stack[-1]).update(state)

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: pickle._Unpickler.dispatch[code] for code in OPERATIONS},
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
        pickle.BUILD[0]: build,
    }


def _make_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()  # without arguments, of which thousands could be filled from one list


def _make_tensor(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    _requires_grad: bool,
    _hooks: Any,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Returns a tensor on the bytes of a storage, if it has no more elements than they hold, and none outside."""
    dtype = dtype or storage.dtype
    numbers = (offset, *size[:MAX_AXES], *stride[:MAX_AXES])
    if not (len(size) == len(stride) <= MAX_AXES and all(type(one) is int and 0 <= one < 2**31 for one in numbers)):
        raise ValueError("it has tensors without a valid shape")
    held, count = len(storage.content) // dtype.itemsize, math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > held or (count and last >= held):
        raise ValueError("it has tensors that are larger than they are stored")
    return torch.empty(0, dtype=dtype).set_(storage.content.untyped_storage(), offset, size, stride)


GLOBALS = {
    **DTYPES,
    "collections.OrderedDict": _make_dict,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_tensor_v3": _make_tensor,
}
