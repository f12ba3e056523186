"""Models to hand around: files of safetensors, which hold tensors and text and nothing else.

Such a file is the length of a header, the header in JSON, which says where each tensor lies, and the tensors, one
behind the other without a gap: https://huggingface.co/docs/safetensors. What a checkpoint says beside its weights
is one text in JSON in the header. Every figure of the header is compared with the file before memory is taken.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmnist.errors import check
from fmnist.files import open_regular
from fmnist.plain import MAX_NODES, check_size

SUFFIX = ".safetensors"
KEY = "fmnist"  # of the text in the header
MAX_BYTES, MAX_HEADER = 2**32 - 1, 1_000_000
MAX_VALUES, MAX_AXES = 200_000, 64  # of the header, and of a tensor
# What is kept of a checkpoint: all but what only a training that goes on needs
KEPT = ("state_dict", "hyper_parameters", "epoch", "conversion", "typicality", "FashionMNISTDataModule")
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def pack(checkpoint: dict[str, Any]) -> bytes:
    """Returns the content of a file of safetensors with a checkpoint, but for what only a training needs.

    Raises:
        UserError: It has tensors that such a file cannot hold, or too many.
    """
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for part in [part for part in KEPT if part in checkpoint]:
        value = plain[part] = checkpoint[part]
        if isinstance(value, dict):
            plain[part] = {key: inner for key, inner in value.items() if not isinstance(inner, Tensor)}
            tensors |= {f"{part}/{key}": inner for key, inner in value.items() if isinstance(inner, Tensor)}
    _check_storable(tensors)
    contents = {name: _to_bytes(tensor) for name, tensor in tensors.items()}
    header = json.dumps({"__metadata__": {KEY: json.dumps(plain)}, **_locate(tensors, contents)}).encode()
    header += b" " * (-len(header) % 8)  # so that tensors lie where a processor likes them
    check(len(header) <= MAX_HEADER, f"{SUFFIX} cannot hold {len(tensors):,} weights: that is too many")
    return b"".join([len(header).to_bytes(8, "little"), header, *contents.values()])


def _locate(tensors: dict[str, Tensor], contents: dict[str, bytes]) -> dict[str, Any]:
    """Writes down the type and the shape of each tensor, and where it begins and ends."""
    located, place = {}, 0
    for name, tensor in tensors.items():
        end = place + len(contents[name])
        located[name] = {"dtype": CODES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [place, end]}
        place = end
    return located


def _to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _check_storable(tensors: dict[str, Tensor]) -> None:
    known: dict[int, str] = {}
    for name, tensor in tensors.items():
        short = name.partition("/")[2]
        twin = known.setdefault(tensor.untyped_storage().data_ptr(), short) if tensor.numel() else short
        shared = name.startswith("state_dict/") and twin != short
        check(not shared, f"{SUFFIX} cannot hold {short}, which shares its memory with {twin}")
        check(tensor.dtype in CODES, f"{SUFFIX} cannot hold {short}, which is {tensor.dtype}")


def read_tensor_file(path: Path) -> dict[str, Any]:
    """Reads a file that ``pack`` has made the content of.

    Returns:
        What ``pack`` was given, as JSON keeps it, without what only a training needs.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is anything else, is damaged, or is made to take time or memory.
    """
    with open_regular(path, MAX_BYTES) as file:
        return unpack(file)


def unpack(file: io.BufferedReader | io.BytesIO) -> dict[str, Any]:
    """Does what ``read_tensor_file`` does with an open file."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise ValueError("its header is larger than the file, or than 1 MB")
    try:
        header = _parse(file.read(length), MAX_VALUES)
        found = _parse(header.pop("__metadata__")[KEY])
        checkpoint = {part: found[part] for part in KEPT if part in found}
        _read_tensors(file, header, checkpoint, size - 8 - length)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:  # what odd JSON ends in
        raise ValueError(f"its header is damaged: {error}") from error
    return checkpoint


def _parse(text: bytes | str, nodes: int = MAX_NODES) -> Any:
    value = json.loads(text, object_pairs_hook=_unique)
    check_size(value, nodes)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses what other readers would read differently."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("its header says something twice")
    return made


def _read_tensors(
    file: io.BufferedReader | io.BytesIO, header: dict[str, Any], checkpoint: dict[str, Any], size: int
) -> None:
    """Reads all tensors, which must fill the rest of the file, into the parts of the checkpoint that they are of."""
    place = 0
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (part, _, key) = DTYPES[about["dtype"]], about["shape"], name.partition("/")
        if len(shape) > MAX_AXES or not all(type(axis) is int and 0 <= axis < 2**31 for axis in shape):
            raise ValueError("it has tensors of no shape")
        start, place = place, place + math.prod(shape) * dtype.itemsize
        if about["data_offsets"] != [start, place] or place > size or key in checkpoint[part]:
            raise ValueError("its tensors do not lie one behind the other")
        content = torch.empty(place - start, dtype=torch.uint8)
        file.readinto(content.numpy().data)
        checkpoint[part][key] = content.view(dtype).reshape(shape)
    if place != size:
        raise ValueError("its tensors do not fill it")
