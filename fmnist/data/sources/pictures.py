"""What all sources of picture files have in common."""

import os
import sys
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from fmnist.data.decode import Picture, decode
from fmnist.data.photos import Conversion
from fmnist.data.sources.source import Source
from fmnist.data.split import resolve_size, split_by_content, stratified_split
from fmnist.errors import check
from fmnist.names import describe_code
from fmnist.text import plain

Listing = tuple[list[Picture], list[str]]  # pictures and the names of their classes
Part = Literal["train", "val", "test"]
Rule = Literal["content", "order"]


class _Pictures(Source):
    """Pictures in files, which are decoded once and cached.

    A subclass lists them; where there is no test part of its own, every fifth picture or so becomes one.
    """

    def __init__(self, test_size: int | float, conversion: Conversion, skip_broken: bool, split_by: Rule) -> None:
        check(test_size >= 0, f"data.source: test_size is {test_size}: it must be at least 0")
        self.test_size = test_size
        self.conversion = conversion
        self.skip_broken = skip_broken
        self.split_by = split_by
        self.transform: Callable[[Any], Any] | None = None
        self._listing = cache(self._list)
        self._known: dict[bool, tuple[Tensor, list[str]]] = {}
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what is found again: a function that remembers cannot be sent to another process."""
        return {**self.__dict__, "_listing": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what another process has sent."""
        self.__dict__.update(state)
        self._listing = cache(self._list)

    def describe_conversion(self) -> dict[str, str | None]:
        """Says how the pictures were converted; see ``Source``."""
        return {"name": self.conversion, "transform": self.transform and (describe_code(self.transform) or "?")}

    @abstractmethod
    def _list(self, part: Part) -> Listing | None:
        """Lists a part; None if there is none, which the training part must not be."""

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Names of the classes of the training part, sorted."""
        listing = self._listing("train")
        assert listing is not None
        return sort_names({*listing[1]})

    def prepare(self) -> None:
        """Decodes the training part into the cache, if it goes there."""
        names = self.class_names
        check(len(names) > 1, f"data.source: there is one class only, {names[0]}: at least two are needed")
        if self.transform is None:
            self.load(train=True)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads the training part or the test part; see ``Source.load``."""
        own = self._listing("test")
        images, labels, digests, places = self._read("train" if train or own is None else "test")
        if own is None:
            part = self._split(labels, digests)[not train]
            what = f"data.source: test_size {self.test_size} of {len(labels):,} pictures leaves none"
            check(len(part) > 0, f"{what} to {'train' if train else 'test'} on: give a test part or another test_size")
            images, labels, digests = images[part], labels[part], digests[part]
            places = [places[index] for index in part.tolist()]
        self._known[train] = (digests, places)
        return images, labels

    def load_val(self) -> tuple[Tensor, Tensor] | None:
        """Reads the validation part, if there is one; see ``Source.load_val``."""
        return self._read("val")[:2] if self._listing("val") else None

    def digests(self, train: bool) -> Tensor | None:
        """Returns a number for the content of each image; see ``Source.digests``."""
        if self.split_by == "order" or self._listing("test") is not None:
            return None
        return self._about(train)[0]

    def paths(self, train: bool) -> list[str] | None:
        """Returns where each image comes from; see ``Source.paths``."""
        return self._about(train)[1]

    def _about(self, train: bool) -> tuple[Tensor, list[str]]:
        if train not in self._known:
            self.load(train)
        return self._known[train]

    def _read(self, part: Part) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Returns images, labels, digests and places of a part."""
        listing = self._listing(part)
        assert listing is not None
        pictures, names = listing
        numbers = {name: number for number, name in enumerate(self.class_names)}
        unknown = sorted({*names} - {*numbers})
        check(
            not unknown, f"data.source: the {part} part has classes that the training part lacks: {', '.join(unknown)}"
        )
        decoded = decode(pictures, self.conversion, self.transform, self.skip_broken)
        self._say(decoded.notice)
        kept = decoded.kept.tolist()
        check(bool(kept), f"data.source: not one picture of the {part} part can be read")
        lost = sorted({*numbers} & {*names} - {names[index] for index in kept}) if part == "train" else []
        check(not lost, f"data.source: of these classes not one picture can be read: {', '.join(lost)}")
        labels = torch.tensor([numbers[names[index]] for index in kept])
        return decoded.images, labels, decoded.digests, [_name_place(pictures[index]) for index in kept]

    def _say(self, notice: str) -> None:
        """Prints a notice once, whatever is prepared and loaded again, and from one process of each machine."""
        rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        if notice and notice not in self._said and rank == "0":
            self._said.add(notice)
            print(f"notice: {plain(notice)}", file=sys.stderr)

    def _split(self, labels: Tensor, digests: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the indices of the training part and of the test part."""
        total = len(labels)
        size = min(total, resolve_size(self.test_size, total))
        if self.test_size == 0 or size == total:
            return torch.arange(total - size), torch.arange(total - size, total)
        if self.split_by == "order":
            return stratified_split(labels, size, seed=0) if size else (torch.arange(total), torch.arange(0))
        return split_by_content(digests, labels, self.test_size if self.test_size < 1 else size / total, seed=0)


def _name_place(picture: Picture) -> str:
    """Returns the file of a picture, or the place inside one, bytes that are no text written as such."""
    place = picture.file if picture.content is None else picture.place.rstrip(":")
    return os.fsencode(place).decode(errors="backslashreplace")


def sort_names(names: set[str]) -> list[str]:
    """Sorts names of classes; numbers by their value."""
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def clean_name(name: str) -> str:
    """Returns the name of a class in one form of Unicode, bytes that are no text written as such."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return unicodedata.normalize("NFC", text)


def check_case(names: Iterable[str], place: str) -> None:
    """Refuses two classes whose names differ in case only: on other machines they would be one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        check(other == name, f"data.source: {place} has classes that differ in case only: {other} and {name}")
