"""Configurations in YAML, read as plain values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fmnist.files import read_text

SHARED_KEYS = ("seed_everything", "trainer", "model", "data")  # parts of a configuration that every command accepts
MAX_NODES, MAX_DEPTH, MAX_BITS = 10_000, 50, 1024  # of a configuration: its values, their nesting, its numbers


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


def list_options(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings of a configuration as the options of the command line that they stand for.

    Args:
        settings: A configuration, or the part of one that ``name`` is the option of.
        name: Option, such as ``data.source``; a class and its ``init_args`` belong to the option itself.
    """
    if isinstance(settings, dict):
        for key, value in settings.items():
            inner = name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip(".")
            yield from list_options(value, inner)
    elif isinstance(settings, list):
        for value in settings:
            yield from list_options(value, name)
    else:
        yield name, settings
