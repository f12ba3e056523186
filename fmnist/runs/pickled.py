"""Pickles of plain values and tensors, read as data.

A closed table holds the operations that build plain values and tensors: nothing is imported, and nothing that a
pickle names is called.
"""

import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmnist.limits import walk

MAX_PICKLE, MAX_OPERATIONS = 4_000_000, 400_000  # bytes and operations: 3,000 weights and their optimizer need half
MAX_VALUES = 100_000  # in the result, each counted as often as it is reached
MAX_AXES, MAX_VERSIONS = 64, 100  # of a tensor, as in torch; sets of weights with the versions of their modules
LARGER = "it has tensors that are larger than they are stored"

CONSTANTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
ORDERED = "collections OrderedDict"
TENSORS = {"torch._utils _rebuild_tensor_v2": 6, "torch._utils _rebuild_tensor_v3": 7}  # numbers of arguments
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


def read_pickle(content: bytes, load: Callable[[str], Tensor], room: int) -> Any:
    """Reads the values of a pickle of ``torch.save``.

    Args:
        content: The pickle.
        load: Reads the bytes of a tensor, uint8 (N,), by name.
        room: Bytes that all tensors together may have, each counted as often as it is reached.

    Raises:
        ValueError: It holds anything but plain values and tensors, or was made to take time or memory.
    """
    try:
        return _Machine(load, room).run(content)
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:  # raised by damaged pickles
        raise ValueError(f"its values are damaged: {error}") from error


@dataclass(frozen=True)
class _Global:
    """A placeholder for what a pickle would import."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Bytes of tensors, uint8 (size,), and their type."""

    content: Tensor
    dtype: torch.dtype


class _Machine:
    """Carries out the operations of a pickle; for arguments see ``read_pickle``."""

    def __init__(self, load: Callable[[str], Tensor], room: int) -> None:
        self.load, self.room = load, room
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.contents: dict[str, Tensor] = {}
        self.versions: list[Any] = []

    def run(self, content: bytes) -> Any:
        """Returns the value of a pickle."""
        operations = self._list_operations()
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if number == MAX_OPERATIONS:
                raise ValueError("it has too many values")
            if operation.name not in operations:
                raise ValueError(f"it asks for the operation {operation.name}")
            operations[operation.name](argument)
        value = self.stack.pop()
        for node in walk([value, self.versions], MAX_VALUES):
            self.room -= node.nbytes if isinstance(node, Tensor) else 0
            if isinstance(node, _Global | _Storage) or self.room < 0:
                raise ValueError("it holds something other than plain values" if self.room >= 0 else LARGER)
        return value

    def _list_operations(self) -> dict[str, Callable[[Any], None]]:
        """Returns what each known operation does with its argument."""
        push, pop, take = self.stack.append, self.stack.pop, self._take
        return {
            **dict.fromkeys(("PROTO", "STOP"), lambda _: None),
            **dict.fromkeys(CONSTANTS, push),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda key: push(self.memo[key])),
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "TUPLE1": lambda _: push(tuple(take(1))),
            "TUPLE2": lambda _: push(tuple(take(2))),
            "TUPLE3": lambda _: push(tuple(take(3))),
            "TUPLE": lambda _: push(tuple(take())),
            "APPEND": lambda _: self._append(take(1)),
            "APPENDS": lambda _: self._append(take()),
            "SETITEM": lambda _: self._set_items(take(2)),
            "SETITEMS": lambda _: self._set_items(take()),
            "GLOBAL": lambda name: push(_find_global(name)),
            "BINPERSID": lambda _: push(self._find_storage(*pop())),
            "REDUCE": lambda _: push(self._call(*take(2))),
            "BUILD": lambda _: self._build(pop()),
        }

    def _remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def _take(self, count: int | None = None) -> list[Any]:
        """Removes values from the stack and returns them: the last ``count``, or all above the last mark."""
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
            # Other keys could take hours to hash: nested tuples, numbers that were chosen to collide.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**31):
                raise ValueError(f"it has a {type(key).__name__} as a key")
            if not isinstance(self.stack[-1], dict):
                raise ValueError("it has items of what is no dict")
            self.stack[-1][key] = value

    def _call(self, what: Any, given: tuple[Any, ...]) -> Any:
        """Returns what a function that a pickle calls would return."""
        name = what.name if isinstance(what, _Global) else type(what).__name__
        if name == ORDERED and given == ():
            return OrderedDict()
        if len(given) != TENSORS.get(name):
            raise ValueError(f"it calls {name}")
        storage, offset, size, stride = given[:4]
        dtype = DTYPES[given[6].name] if len(given) == 7 else storage.dtype
        return self._view(storage.content, dtype, offset, size, stride)

    def _view(
        self, content: Tensor, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> Tensor:
        """Returns a tensor on bytes, uint8 (N,), if it has no more elements than they hold, and none outside."""
        numbers = (offset, *size[:MAX_AXES], *stride[:MAX_AXES])
        if not (len(size) == len(stride) <= MAX_AXES and all(type(one) is int and 0 <= one < 2**31 for one in numbers)):
            raise ValueError("it has tensors of no shape")
        held, count = len(content) // dtype.itemsize, math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if count > held or (count and last >= held):
            raise ValueError(LARGER)
        return torch.empty(0, dtype=dtype).set_(content.untyped_storage(), offset, size, stride)

    def _find_storage(self, kind: Any, what: Any, key: Any, device: Any, count: Any) -> "_Storage":
        """Returns the bytes of a tensor, which are read once for all tensors that share them."""
        dtype = DTYPES[what.name]
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise ValueError("it holds something other than tensors")
        if key not in self.contents:
            self.contents[key] = self.load(key)
        if count * dtype.itemsize != len(self.contents[key]):
            raise ValueError("it has tensors of another size than is stored")
        return _Storage(self.contents[key], dtype)

    def _build(self, state: Any) -> None:
        """Keeps the versions of modules that torch saves with weights."""
        versions = state["_metadata"]
        few = len(state) == 1 and len(self.versions) < MAX_VERSIONS
        if (
            not few
            or type(self.stack[-1]) is not OrderedDict
            or not all(type(about) is dict for about in versions.values())
        ):
            raise ValueError("it sets attributes")
        self.versions.append(versions)
        self.stack[-1]._metadata = versions  # type: ignore[attr-defined]


def _find_global(name: str) -> _Global:
    if name != ORDERED and name not in TENSORS and name not in DTYPES:
        raise ValueError(f"it names {name.replace(' ', '.')!r:.60}, which is no plain value")
    return _Global(name)
