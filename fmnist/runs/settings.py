"""Configurations in YAML, read as plain values."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fmnist.files import read_text
from fmnist.limits import MAX_DEPTH, MAX_NODES, check_size

SHARED_KEYS = ("seed_everything", "trainer", "model", "data")  # parts of a configuration that every command accepts
# An integer, in any of YAML's forms, so long that it costs time to build or has the hash of many others
LONG = re.compile(r"[-+]?(0[xb][\da-fA-F_]{17,}|\d[\d_:]{18,})(\.[\d_]*)?", re.ASCII)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's loader with scalars as in YAML 1.2 and jsonargparse: ``1e-4`` is a number, a date is text."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Builds a dict; PyYAML would keep the last of two equal keys without a word."""
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise ValueError(f"{key.value[:60]} is there twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper with quotes around text that ``_Loader`` takes for a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$", re.ASCII), [*"-+.0123456789"]
    )


def write_settings(settings: Any, allow_unicode: bool = True) -> str:
    """Writes plain values as YAML, which reads as they are."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode)


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a configuration in YAML from an untrusted file.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is not a configuration, has a key twice, or was made to exhaust the machine.
    """
    return parse_settings(read_text(path))


def parse_settings(text: str) -> dict[str, Any]:
    """Returns the settings of a configuration in YAML from an untrusted source; see ``read_settings``."""
    try:
        _check_events(text)  # before anything is built
        settings = yaml.load(text, Loader=_Loader)
        check_size(settings)  # what aliases share counts each time
    except (yaml.YAMLError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error  # PyYAML raises all of these
    if not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    return settings


def list_options(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings of a configuration as command-line options with their values.

    Args:
        settings: A configuration, or the part of one below the option ``name``.
        name: Option, such as ``data.source``; ``class_path`` and ``init_args`` are left out of names.
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


def _check_events(text: str) -> None:
    """Refuses what is slow to build: deep nesting, many values, merge keys, tags, long numbers."""
    total = depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        total += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            _check_node(event)
        if total >= MAX_NODES or depth > MAX_DEPTH:
            raise ValueError("it has too many settings" if total >= MAX_NODES else "it is nested too deeply")


def _check_node(event: Any) -> None:
    """Refuses tags, merge keys, and numbers of more than 18 digits."""
    if event.tag:
        raise ValueError(f"it has the tag {event.tag[:60]}")
    is_plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]  # not in quotes
    if is_plain and event.value == "<<":
        raise ValueError("it has a merge key, <<: write out what it stands for")
    if is_plain and LONG.fullmatch(event.value):
        raise ValueError("it has a number that is too long")
