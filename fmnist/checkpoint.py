"""Checkpoints: written whole or not at all, read without running anything in them."""

import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fmnist.atomic import atomic_path
from fmnist.errors import UserError, check
from fmnist.runs import run_folder

Checkpoint = dict[str, Any]
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
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        known = "hidden_dims" in checkpoint["hyper_parameters"] and checkpoint["epoch"] >= 0
    except OSError:
        raise
    except Exception as error:  # anything at all can be wrong with a foreign file
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(
            f"{path} is not a checkpoint of fmnist ({type(error).__name__}: {reason}): give another --ckpt_path"
        ) from error
    if not known or "state_dict" not in checkpoint:
        raise UserError(f"{path} is the checkpoint of another project: give another --ckpt_path")
    settings = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    _refuse_foreign_classes("model", settings, path, asked)
    return dict(checkpoint)


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
        saved = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        settings = {key: saved[key] for key in keys if key in saved}
        for key in TRUSTED.keys() & settings.keys():
            _refuse_foreign_classes(key, dict(settings[key]), path, asked)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
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
