"""The settings of a run: its config.yaml, and what it may name."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from fmnist.errors import UserError, check
from fmnist.files import read_text
from fmnist.runs.folder import run_folder

MAX_NODES, MAX_DEPTH, MAX_BITS = 10_000, 50, 1024  # of a configuration: its values, their nesting, its numbers

# Packages whose classes each part of a configuration may name without being asked
TRUSTED = {"trainer": ("lightning.pytorch.",), "model": ("torch.optim.",), "data": ("fmnist.",)}
# Settings whose value is a class, and settings of text that only looks like the path of one
NAMING = {"class_path", "source", "optimizer", "callbacks", "logger", "plugins", "profiler", "strategy"}
TEXT = {"default_root_dir", "root", "dirpath", "save_dir", "filename", "monitor", "name", "class_names"} | {
    *("folder", "path", "annotations_file", "test_annotations_file", "img_dir", "label_names", "class_map")
}


SHARED_KEYS = ("seed_everything", "trainer", "model", "data")  # parts of a configuration that every verb accepts


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


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a configuration in YAML that anybody may have written.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is no configuration, or is made to exhaust the machine.
    """
    text = read_text(path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):  # nesting is looked at before anything recursive sees it
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError("it is nested too deeply")
        settings = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error  # also what PyYAML's own mistakes end in
    if not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    _check_size(settings)
    return settings


def _check_size(settings: dict[str, Any]) -> None:
    """Refuses aliases that multiply or go in circles, and numbers that nobody can print."""
    waiting: list[Any] = [settings]
    for _ in range(MAX_NODES):
        if not waiting:
            return
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += [*node, *node.values()]
        elif isinstance(node, list | tuple | set):
            waiting += node
        elif isinstance(node, int) and node.bit_length() > MAX_BITS:
            raise ValueError("it has a number that is too long")
    raise ValueError("it has too many settings")
