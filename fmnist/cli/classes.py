"""Settings whose value is a class: which there are, and what becomes of the settings of another one."""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from textwrap import shorten
from typing import Any

from jsonargparse import ArgumentParser, Namespace, _typehints
from torch import nn


def list_classes(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Answers ``--data.source.help`` without a class: prints those there are, and exits.

    Args:
        parser: It has the option.
        words: What was typed.
    """
    for word, following in pairwise([*words, "--"]):
        bases = getattr(parser._option_string_actions.get(word), "_help_types", ())
        if word.endswith(".help") and bases and following.startswith("-"):
            known = {name: text for base in bases for name, text in _describe(base)}
            for name in sorted(known):
                print(f"  {name:{max(map(len, known))}}  {known[name]}")
            print(f"'{word} CLASS' shows the settings of one; one of your own is named by its path: module.Class")
            sys.exit(0)


def _describe(base: Any) -> Iterator[tuple[str, str]]:
    """Yields the classes that can be typed by their name, with the beginning of their description."""
    if base is nn.Module:  # layers, metrics, losses: a network is one's own
        return
    for found in base.__subclasses__():
        yield from _describe(found)
        public = not found.__name__.startswith("_") and not found.__module__.startswith("fmnist.training")
        if public and not inspect.isabstract(found):
            text = " ".join((found.__doc__ or "").split())
            yield (
                found.__name__,
                shorten(re.split(r"(?<=[\w)`>][.])\s|\s\.\.\s|\sArgs:", text)[0], 100, placeholder=" ..."),
            )


def start_anew() -> None:
    """Lets another class start from its own defaults.

    jsonargparse hands those settings of the class before on that the new one happens to have as well, so that
    Adam would be given the learning rate of SGD. It has no setting for this.
    """
    _typehints.discard_init_args_on_class_path_change = _discard


def _discard(parser_or_action: Any, before: Any, now: Any) -> None:
    if not before or before["class_path"] == now["class_path"]:
        return
    one, other = (_typehints.import_object(str(spec["class_path"])) for spec in (before, now))  # type: ignore[attr-defined]
    if one is not other:
        before["init_args"] = Namespace()  # type: ignore[no-untyped-call]
        before.pop("dict_kwargs", None)
