"""What all sources of picture files have in common."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fmnist.data.decode import Picture, decode
from fmnist.data.photos import Conversion
from fmnist.data.sources.source import Source
from fmnist.data.split import resolve_size, stratified_split
from fmnist.errors import check
from fmnist.names import describe_code

Listing = tuple[list[Picture], list[str]]  # pictures and the names of their classes


class _Pictures(Source):
    """Pictures in files, which are decoded once and cached.

    A subclass lists them; where there is no test part of its own, every fifth picture or so becomes one.
    """

    def __init__(self, test_size: int | float, conversion: Conversion) -> None:
        check(test_size >= 0, f"data.source: test_size is {test_size}: it must be at least 0")
        self.test_size = test_size
        self.conversion = conversion
        self.transform: Callable[[Any], Any] | None = None

    def describe_conversion(self) -> dict[str, str | None]:
        """Says how the pictures were converted; see ``Source``."""
        return {"name": self.conversion, "transform": self.transform and (describe_code(self.transform) or "?")}

    @abstractmethod
    def _list(self, train: bool) -> Listing | None:
        """Lists the training part or the test part; None if there is no test part."""

    @cached_property
    def _train(self) -> Listing:
        listing = self._list(train=True)
        assert listing is not None
        return listing

    @cached_property
    def _test(self) -> Listing | None:
        return self._list(train=False)

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Names of the classes of the training part, sorted."""
        return sort_names({*self._train[1]})

    def prepare(self) -> None:
        """Decodes the training part into the cache, if it goes there."""
        if self.transform is None:
            self.load(train=True)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads the training part or the test part; see ``Source.load``."""
        pictures, names = self._train if train or self._test is None else self._test
        numbers = {name: number for number, name in enumerate(self.class_names)}
        unknown = {*names} - {*numbers}
        check(not unknown, f"data.source: the test part has classes that the training part lacks: {', '.join(unknown)}")
        labels = torch.tensor([numbers[name] for name in names])
        if self._test is None:
            size = resolve_size(self.test_size, len(labels))
            what = f"data.source: test_size {self.test_size} of {len(labels):,} pictures"
            check(train or size > 0, f"{what} leaves none to test on: give a test part or --data.source.test_size")
            check(size < len(labels), f"{what} leaves none to train on")
            part = stratified_split(labels, size, seed=0)[not train] if size else torch.arange(len(labels))
            pictures, labels = [pictures[index] for index in part.tolist()], labels[part]
        return decode(pictures, self.conversion, self.transform), labels


def sort_names(names: set[str]) -> list[str]:
    """Sorts names of classes; numbers by their value."""
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def check_case(names: list[str], place: str) -> None:
    """Refuses two classes whose names differ in case only: on other machines they would be one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        check(other == name, f"data.source: {place} has classes that differ in case only: {other} and {name}")
