"""The data settings in a checkpoint: plain values, from which only known classes are built."""

import inspect
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fmnist.data.sources.source import Source
from fmnist.errors import check
from fmnist.files import expand
from fmnist.names import UntrustedCodeError, describe_code, import_code

# The only classes that the name of a source in a checkpoint can mean
SOURCES = {
    "FashionMNIST": "fmnist.data.sources.fashion_mnist.FashionMNIST",
    "ImageFolder": "fmnist.data.sources.folder.ImageFolder",
    "CSV": "fmnist.data.sources.table.CSV",
    "Parquet": "fmnist.data.sources.parquet.Parquet",
    "TorchVision": "fmnist.data.sources.torchvision.TorchVision",
}
SPLIT = {  # settings of the data module that decide which images are validated on, and the names of classes
    "val_size": int | float,
    "split_seed": int,
    "class_map": dict[str, str],
    "fold": str | None,
}


def describe_data(data: Any) -> dict[str, Any]:
    """Returns, as plain values, the source of a data module and the settings of its split."""
    return {**{name: getattr(data, name) for name in SPLIT}, "source": describe_source(data.source)}


def describe_source(source: Source) -> dict[str, Any]:
    """Returns a source as plain values.

    ``name`` is a key of ``SOURCES`` or the import path of another class; ``settings`` are its arguments; ``code`` are
    the import paths of those arguments that are functions, classes or other objects.
    """
    path = describe_code(type(source)) or "?"
    name = next((name for name, known in SOURCES.items() if known == path), path)
    settings, code = dict[str, Any](), dict[str, str]()
    for key, value in source.arguments().items():
        try:
            settings[key] = json.loads(json.dumps(value, default=_as_text))
        except TypeError:
            code[key] = describe_code(value) or "?"
    return {"name": name, "settings": settings, "code": code}


def _as_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError


def read_data_settings(saved: Any, path: Path, trusted: Mapping[str, str]) -> dict[str, Any]:
    """Reads the data settings of a checkpoint as defaults of the command line.

    Args:
        saved: What ``FashionMNISTDataModule.state_dict`` returned in training.
        path: The checkpoint's file.
        trusted: What the user has typed or configured, by option, such as the import path at ``data.source``.

    Returns:
        Values by option, such as ``data.val_size``; ``data.source`` as ``class_path`` and ``init_args``.

    Raises:
        UserError: The checkpoint does not say what data it was trained on, or something that makes no sense.
        UntrustedCodeError: The source, or a function that it was given, has to be named by the user.
    """
    found: Any = saved.get("data") if isinstance(saved, dict) else None
    if not isinstance(found, dict):
        silent = f"{path} does not say what data it was trained on: name it, with --data.source, or train again"
        check("data.source" in trusted, silent)
        return {}
    defaults = {f"data.{key}": found[key] for key in SPLIT if _fits(found.get(key, ...), SPLIT[key])}
    check(len(defaults) == len(SPLIT), f"{path} is damaged: what it says of its validation images makes no sense")
    source: Any = found.get("source")
    damaged = f"{path} is damaged: what it says of its data makes no sense"
    check(isinstance(source, dict) and _fits(source.get("name"), str), damaged)
    for part in ("settings", "code"):
        options = source.get(part)
        check(isinstance(options, dict) and all(str(key).isidentifier() for key in options), damaged)
    known, chosen = source["name"] in SOURCES, trusted.get("data.source", "")
    if chosen and not _is_same(chosen, source["name"]):
        return defaults  # the user takes other data
    code = {} if known else {"data.source": source["name"]}
    code |= {f"data.source.{key}": str(value) for key, value in sorted(source["code"].items())}
    missing = {option: name for option, name in code.items() if option not in trusted}
    if missing:
        raise UntrustedCodeError(path, missing)
    class_path = f"fmnist.{source['name']}" if known else chosen
    made = import_code(SOURCES[source["name"]] if known else chosen)
    chosen_source = {"class_path": class_path, "init_args": _read_source(source, made, path, trusted)}
    return {**defaults, "data.source": chosen_source}


def _is_same(chosen: str, saved: str) -> bool:
    """Returns whether the class that the user has named is the one that a checkpoint describes."""
    if saved in SOURCES:
        return chosen in (saved, f"fmnist.{saved}", SOURCES[saved])
    moved = saved.startswith("__main__.") and chosen.rpartition(".")[2] == saved.rpartition(".")[2]  # of a notebook
    return chosen == saved or moved


def _read_source(source: Mapping[str, Any], made: Any, path: Path, trusted: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings of a source: each a parameter of its class, of the type that it has there, and no code."""
    try:
        hints = get_type_hints(made.__init__)
    except NameError:  # imported for the type checker only
        hints = {}
    settings = {key: value for key, value in source["settings"].items() if key in hints and _fits(value, hints[key])}
    odd = {key: value for key, value in source["settings"].items() if key not in settings}
    if source["name"] in SOURCES:
        check(not odd, f"{path} is damaged: its data has the settings {str(odd)[:80]}")
        parameters = [*inspect.signature(made.__init__).parameters.values()][1:]
        lacking = [p.name for p in parameters if p.default is p.empty and p.name not in settings]
        check(not lacking, f"{path} is damaged: its data lacks {', '.join(lacking)}")
    unknown = [f"--data.source.{key}" for key in odd if f"data.source.{key}" not in trusted]
    what = f"{path} was trained with settings of {source['name']} that have no plain type"
    check(not unknown, f"{what}: give {', '.join(unknown)}")
    return {key: value for key, value in settings.items() if not _fills(made, key, settings)}


def _fills(source: type, name: str, settings: Mapping[str, Any]) -> bool:
    """Returns whether a setting would have a data set put into a folder elsewhere, which a stranger may have chosen."""
    kinds = {"root": SOURCES["FashionMNIST"], "folder": SOURCES["TorchVision"]}
    if name not in kinds or not issubclass(source, import_code(kinds[name])):
        return False
    folder = expand(settings[name])
    inside = folder.resolve().is_relative_to(Path.cwd().resolve())
    raw = folder / str(settings.get("name", "FashionMNIST")) / "raw"
    return not inside and not (raw.is_dir() and any(raw.iterdir()))


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a plain value is of a type; no value is of the type of a function or a class."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value is part or (type(value) is type(part) and value == part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    plain = hint in (bool, int, float, str, type(None))
    return plain and (type(value) is hint or (hint is float and type(value) is int))
