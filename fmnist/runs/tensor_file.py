"""Models to hand around: files of safetensors, which hold tensors and text and nothing else.

What a checkpoint says beside its weights is one text in JSON in the metadata.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fmnist.errors import UserError, check
from fmnist.files import open_regular
from fmnist.limits import check_size

SUFFIX = ".safetensors"
KEY = "fmnist"  # of the text in the metadata
MAX_BYTES, MAX_HEADER = 2**32 - 1, 1_000_000  # of the file, and of its header, of which the library takes 100 MB
# What is kept of a checkpoint: all but what only a run that is continued needs
KEPT = ("state_dict", "hyper_parameters", "epoch", "conversion", "typicality", "FashionMNISTDataModule")


def pack(checkpoint: dict[str, Any]) -> bytes:
    """Returns the content of a file of safetensors with a checkpoint, but for what only a continued run needs.

    Raises:
        UserError: It has tensors that such a file cannot hold, or too many.
    """
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for part in [part for part in KEPT if part in checkpoint]:
        value = plain[part] = checkpoint[part]
        if isinstance(value, dict):
            plain[part] = {key: inner for key, inner in value.items() if not isinstance(inner, Tensor)}
            tensors |= {
                f"{part}/{key}": inner.contiguous() for key, inner in value.items() if isinstance(inner, Tensor)
            }
    known: dict[int, str] = {}
    for path, tensor in tensors.items():
        name = path.partition("/")[2]
        twin = known.setdefault(tensor.untyped_storage().data_ptr(), name) if tensor.numel() else name
        check(twin == name, f"{SUFFIX} cannot hold {name}, which shares its memory with {twin}")
        check(not tensor.is_complex(), f"{SUFFIX} cannot hold {name}, which is {tensor.dtype}")
    try:
        content: bytes = safetensors.torch.save(tensors, {KEY: json.dumps(plain)})
    except (SafetensorError, KeyError, ValueError) as error:  # other types that it does not know
        raise UserError(f"{SUFFIX} cannot hold this model: {error}") from error
    check(int.from_bytes(content[:8], "little") <= MAX_HEADER, f"{SUFFIX} cannot hold {len(tensors):,} tensors")
    return content


def read_tensor_file(path: Path) -> dict[str, Any]:
    """Reads a file that ``pack`` has made the content of.

    Returns:
        What ``pack`` was given, as JSON keeps it, without what only a continued run needs.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is anything else, is damaged, or is made to take time or memory.
    """
    with open_regular(path, MAX_BYTES) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError("its header is larger than the file, or than 1 MB")
        file.seek(0)
        return unpack(file.read())


def unpack(content: bytes) -> dict[str, Any]:
    """Does what ``read_tensor_file`` does with the content of a file, whose header is not too large."""
    length = int.from_bytes(content[:8], "little")
    try:
        found = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][KEY])
        check_size(found)
        checkpoint = {part: found[part] for part in KEPT if part in found}
        for name, tensor in safetensors.torch.load(content).items():
            part, _, key = name.partition("/")
            if checkpoint[part].setdefault(key, tensor) is not tensor:
                raise LookupError(f"{name} is there twice")
    except (SafetensorError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    return checkpoint
