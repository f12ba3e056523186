"""Checkpoints: written whole or not at all, read without running anything in them."""

import io
import json
import re
import zipfile
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fmnist.errors import UserError, check
from fmnist.files import atomic_path
from fmnist.runs import read_settings, run_folder

Checkpoint = dict[str, Any]
MAX_ENTRIES = 10_000  # of an archive; a checkpoint has one for each tensor
# Packages whose classes each part of a configuration may name without being asked
TRUSTED = {"trainer": ("lightning.pytorch.",), "model": ("torch.optim.",), "data": ("fmnist.",)}
# Settings whose value is a class, and settings of text that only looks like the path of one
NAMING = {"class_path", "source", "optimizer", "callbacks", "logger", "plugins", "profiler", "strategy"}
TEXT = {"default_root_dir", "root", "dirpath", "save_dir", "filename", "monitor", "name", "class_names"} | {
    *("folder", "path", "annotations_file", "test_annotations_file", "img_dir", "label_names", "class_map")
}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and moves them there when they have reached the disk.

    Lightning writes to the system's folder for temporary files, which can be another disk: moving a
    file from there is copying it, and a crash in the middle would cost the previous checkpoint.
    """

    def save_checkpoint(self, checkpoint: Checkpoint, path: str | Path, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` as ``path``."""
        if Path(path).name.startswith("hpc_ckpt_"):
            return  # Lightning's SLURM plugin saves in the middle of an epoch; a run continues after whole ones
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_path(Path(path)) as part:
            part.write_bytes(content.getbuffer())


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


def read_run_settings(checkpoint: Path, keys: tuple[str, ...], asked: Collection[str] = ()) -> dict[str, Any]:
    """Reads settings that the run of a checkpoint was made with.

    Args:
        checkpoint: The checkpoint's file.
        keys: Parts of the configuration, such as ``data``.
        asked: Classes that the user has named, which are trusted.

    Returns:
        These parts; nothing if the checkpoint lies outside a run.

    Raises:
        UserError: The configuration is damaged, or names classes of unknown packages.
    """
    folder = run_folder(checkpoint)
    if folder is None:
        return {}
    path = folder / "config.yaml"
    try:
        saved = read_settings(path)
        settings = {key: saved[key] for key in keys if key in saved}
        for key in TRUSTED.keys() & settings.keys():
            _refuse_foreign_classes(key, dict(settings[key]), path, asked)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a configuration ({' '.join(str(error).split())[:120]})") from error
    return settings


def _refuse_foreign_classes(part: str, settings: dict[str, Any], path: Path, asked: Collection[str]) -> None:
    """Naming a class is running its code: what is read unasked may name those of known packages only."""
    for name in class_names(settings):
        known = name.startswith((*TRUSTED[part], "fmnist.")) or name in asked
        check(known, f"{path} names {name}: if you trust it, give the run's config.yaml yourself with --config")


def class_names(node: Any, key: object = None) -> Iterator[str]:
    """Yields every text in a configuration that could be taken for a class, a function or another file.

    Args:
        node: A configuration, or a part of one.
        key: The setting that ``node`` is the value of.
    """
    if key in TEXT:
        return
    if isinstance(node, dict):
        for name, value in node.items():
            yield from class_names(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from class_names(value, key)
    elif isinstance(node, str):
        dotted = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", node)
        if dotted or (key in NAMING and ("." in node or Path(node).exists())):
            yield node
