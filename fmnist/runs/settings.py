"""The settings of a run: its config.yaml, and what it may name."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from fmnist.errors import UserError
from fmnist.files import read_text
from fmnist.names import import_code
from fmnist.runs.folder import run_folder

SHARED_KEYS = ("seed_everything", "trainer", "model", "data")  # parts of a configuration that every verb accepts
# Settings of earlier versions, which old runs and checkpoints may still have
RETIRED = {"data": {"cutout"}, "model": {"compile"}}
PICTURES = {"fmnist.ImageFolder", "fmnist.CSV", "fmnist.Parquet"} | {
    f"fmnist.data.sources.{name}" for name in ("folder.ImageFolder", "table.CSV", "parquet.Parquet")
}
MAX_NODES, MAX_DEPTH, MAX_BITS = 10_000, 50, 1024  # of a configuration: its values, their nesting, its numbers

# Packages whose code each part of a configuration may name without being asked
TRUSTED = {"trainer": ("lightning.pytorch.",), "model": ("torch.optim.",), "data": ()}
# Settings whose value is a class, and settings of text that only looks like the path of one
NAMING = {"class_path", "optimizer", "network", "callbacks", "logger", "plugins", "profiler", "strategy"}
TEXT = {"default_root_dir", "dirpath", "save_dir", "filename", "monitor", "name", "class_names", "weights"}
PLAIN = {str, int, float, bool, list, dict, tuple, set, type(None), Path}


class UntrustedError(UserError):
    """A file names code that the user has not named.

    Args:
        path: The file.
        foreign: Each setting, as it is typed, and the name that is its value.
    """

    def __init__(self, path: Path, foreign: list[tuple[str, str]]) -> None:
        self.path = path
        self.foreign = foreign
        self.names = ", ".join(name for _, name in foreign)
        flags = " ".join(f"--{setting} {name}" for setting, name in foreign)
        super().__init__(f"{path} names {self.names}: if you trust that, name it yourself, with {flags}")


def read_run_settings(checkpoint: Path, keys: tuple[str, ...], asked: Collection[str] = ()) -> dict[str, Any]:
    """Reads settings that the run of a checkpoint was made with.

    Args:
        checkpoint: The checkpoint's file.
        keys: Parts of the configuration, such as ``data``.
        asked: Code that the user has named, which is trusted.

    Returns:
        These parts; nothing if the checkpoint lies outside a run.

    Raises:
        UserError: The configuration is damaged.
        UntrustedError: It names code that nobody has named.
    """
    folder = run_folder(checkpoint)
    if folder is None:
        return {}
    path = folder / "config.yaml"
    try:
        saved = read_settings(path)
        settings = {key: saved[key] for key in keys if key in saved}
        settings |= {key: drop_retired(key, dict(settings[key])) for key in TRUSTED.keys() & settings.keys()}
        _keep_rule(settings.get("data", {}).get("source"))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a configuration ({' '.join(str(error).split())[:120]})") from error
    foreign = [pair for key in TRUSTED.keys() & settings.keys() for pair in find_foreign(key, settings[key], asked)]
    if foreign:
        raise UntrustedError(path, foreign)
    return settings


def _keep_rule(source: Any) -> None:
    """Writes into the settings of a run of before 0.2 how it was split, which was not a setting then."""
    if isinstance(source, dict) and source.get("class_path") in PICTURES and isinstance(source.get("init_args"), dict):
        source["init_args"].setdefault("split_by", "order")


def drop_retired(part: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Leaves out settings that a version of before had, and records that are no settings."""
    return {name: value for name, value in settings.items() if not (name in RETIRED.get(part, ()) or name[:1] == "_")}


def find_foreign(part: str, settings: Any, asked: Collection[str]) -> list[tuple[str, str]]:
    """Finds the code that settings name, without being trusted: naming a class is running its code.

    In ``data`` a class or a function stands only where one is expected, and text stays text. In the other
    parts every text counts that could be taken for a class, a function or another file.

    Args:
        part: ``data``, ``model`` or ``trainer``.
        settings: The settings of this part.
        asked: Names that the user has named, which are trusted.

    Returns:
        Each setting, as it is typed, and what it names.
    """
    found = _named_in_data(settings, "data", False, asked) if part == "data" else named_code(settings, part)
    known = ("fmnist.", *TRUSTED[part])
    return [(where, name) for where, name in found if not (name.startswith(known) or name in asked)]


def named_code(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yields every text in a configuration that could be taken for a class, a function or another file.

    Args:
        node: A configuration, or a part of one.
        where: The setting that ``node`` is the value of.
    """
    key = where.rpartition(".")[2]
    if key in TEXT:
        return
    if isinstance(node, dict):
        for name, value in node.items():
            yield from named_code(value, where if name in ("class_path", "init_args") else f"{where}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from named_code(value, where)
    elif isinstance(node, str):
        dotted = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", node)
        if dotted or (key in NAMING and ("." in node or Path(node).exists())):
            yield where, node


def _named_in_data(node: Any, where: str, expected: bool, asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields what stands where a class or a function is ``expected``."""
    if isinstance(node, dict) and "class_path" in node:
        path = str(node["class_path"])
        yield where, path
        if path.startswith("fmnist.") or path in asked:  # else it must not even be looked at
            for name, value in {**(node.get("init_args") or {}), **(node.get("dict_kwargs") or {})}.items():
                yield from _named_in_data(value, f"{where}.{name}", _takes_code(path, name), asked)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _named_in_data(value, f"{where}.{name}", expected or name == "source", asked)
    elif isinstance(node, list):
        for value in node:
            yield from _named_in_data(value, where, expected, asked)
    elif isinstance(node, str) and expected:
        yield where, node


def _takes_code(class_path: str, parameter: str) -> bool:
    """Tells whether a parameter of a class that is trusted may be given a class or a function."""
    try:
        return not _is_plain(get_type_hints(import_code(class_path).__init__)[parameter])
    except Exception:  # no such class, no such parameter, no annotation: it may
        return True


def _is_plain(hint: Any) -> bool:
    return (
        hint in PLAIN or get_origin(hint) is Literal or (bool(get_args(hint)) and all(map(_is_plain, get_args(hint))))
    )


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
        elif not isinstance(node, str | int | float | None):
            raise ValueError(f"it has a {type(node).__name__}: put it in quotes")
    raise ValueError("it has too many settings")
