"""Checkpoints and the settings beside them, read without running anything in them."""

import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from fmnist.errors import UserError
from fmnist.runs import run_folder

Checkpoint = dict[str, Any]
TRUSTED = ("fmnist.", "lightning.pytorch.", "torch.")


def read_checkpoint(path: Path) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: An existing file.

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
    _refuse_foreign_classes(checkpoint["hyper_parameters"], path)
    return dict(checkpoint)


def read_run_settings(checkpoint: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Reads settings that the run of a checkpoint was made with.

    Args:
        checkpoint: The checkpoint's file.
        keys: Parts of the configuration, such as ``data``.

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
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a configuration ({' '.join(str(error).split())[:120]})") from error
    _refuse_foreign_classes(settings, path)
    return settings


def _refuse_foreign_classes(settings: dict[str, Any], path: Path) -> None:
    """Naming a class is running its code: what is read unasked may name those of known packages only."""
    for name in re.findall(r'"class_path": "([^"]*)"', json.dumps(settings, default=str)):
        if not name.startswith(TRUSTED):
            raise UserError(f"{path} names the class {name}: if you trust it, give the run's config.yaml by --config")
