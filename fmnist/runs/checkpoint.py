"""Checkpoints: written whole or not at all, read without running anything in them."""

import json
import zipfile
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fmnist.errors import UserError
from fmnist.runs.settings import _refuse_foreign_classes

Checkpoint = dict[str, Any]
MAX_ENTRIES = 10_000  # of an archive; a checkpoint has one for each tensor


def read_checkpoint(path: Path, asked: Collection[str] = ()) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: An existing file.
        asked: Classes that the user has named, which are trusted.

    Returns:
        What Lightning saved; at least ``state_dict``, ``hyper_parameters`` and ``epoch``.

    Raises:
        UserError: The file is damaged, is no checkpoint, or holds something other than plain values.
    """
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        settings = json.loads(json.dumps(checkpoint["hyper_parameters"]))  # plain values, or an error
        known = "hidden_dims" in settings and isinstance(checkpoint["epoch"], int) and checkpoint["epoch"] >= 0
        if known:
            _check_weights({**checkpoint["state_dict"]}, settings)
    except OSError:
        raise
    except Exception as error:  # anything at all can be wrong with a foreign file
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(
            f"{path} is not a checkpoint of fmnist ({type(error).__name__}: {reason}): give another --ckpt_path"
        ) from error
    if not known:
        raise UserError(f"{path} is the checkpoint of another project: give another --ckpt_path")
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    _refuse_foreign_classes("model", settings, path, asked)
    return dict(checkpoint)


def _check_archive(path: Path) -> None:
    """Refuses a file that would become much larger in memory; torch never compresses."""
    with zipfile.ZipFile(path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    if sum(sizes) > path.stat().st_size or len(sizes) > MAX_ENTRIES:
        raise ValueError("it is compressed")


def _check_weights(weights: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuses weights that are not those of the network, before one of the size they claim is built."""
    tensors = [tensor for name, tensor in weights.items() if name.startswith("network.") and tensor.ndim == 2]
    widths = [28 * 28, *settings["hidden_dims"], len(settings["class_names"])]
    if [tensor.shape for tensor in tensors] != [(out, into) for into, out in pairwise(widths)]:
        raise ValueError("its weights do not fit the network it describes")
    for tensor in weights.values():
        if tensor.is_complex() or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("it has weights that are larger than they are stored")
        if not tensor.isfinite().all():
            raise ValueError("it has weights that are not finite")
    if not all(isinstance(name, str) for name in settings["class_names"]) or not weights["temperature"] > 0:
        raise ValueError("its classes or its temperature make no sense")
