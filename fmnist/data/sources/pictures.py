"""What all sources of picture files have in common."""

import os
import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from fmnist.data.cache import Picture, decode
from fmnist.data.images import Rows
from fmnist.data.photos import WORKING_SIDE, Conversion
from fmnist.data.sources.source import Source, clean_name
from fmnist.data.split import resolve_size, split_by_content
from fmnist.errors import check
from fmnist.names import describe_code
from fmnist.text import plain

Listing = tuple[list[Picture], list[str]]  # pictures and the names of their classes
Part = Literal["train", "val", "test"]
PARTS: dict[Part, tuple[str, ...]] = {  # names of folders and files, in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class PictureSource(Source):
    """Pictures in files, which are decoded once and cached.

    A subclass lists them; without a test part of its own, a share of the pictures becomes one.
    """

    def __init__(
        self,
        test_size: int | float,
        conversion: Conversion | None,
        skip_broken: bool,
        image_size: int | list[int],
        color: bool,
    ) -> None:
        sides = image_size if isinstance(image_size, list) else [image_size, image_size]
        right = len(sides) == 2 and all(1 <= side <= WORKING_SIDE for side in sides)
        check(right, f"data.source: image_size is {image_size}: give 1 to {WORKING_SIDE}, or [height, width]")
        what = "data.source: the conversion distance makes grey images: give resize or crop, or leave out color"
        check(not color or conversion != "distance", what)
        check(test_size >= 0, f"data.source: test_size is {test_size}: it must be at least 0")
        self.test_size = test_size
        self.conversion: Conversion = conversion or ("resize" if color else "distance")
        self.image_shape = (3 if color else 1, sides[0], sides[1])
        self.skip_broken = skip_broken
        self.transform: Callable[[Any], Any] | None = None
        self._listings: dict[Part, Listing | None] = {}
        self._loaded: dict[bool, tuple[Tensor, list[str]]] = {}  # digests and paths
        self._printed: set[str] = set()

    def describe_conversion(self) -> dict[str, str | None]:
        """Returns how the pictures were converted; see ``Source``."""
        return {"name": self.conversion, "transform": self.transform and (describe_code(self.transform) or "?")}

    @abstractmethod
    def _list(self, part: Part) -> Listing | None:
        """Lists a part; None if there is none, which the training part must not be."""

    def _listing(self, part: Part) -> Listing | None:
        if part not in self._listings:
            self._listings[part] = self._list(part)
        return self._listings[part]

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Names of the classes of the training part, sorted."""
        listing = self._listing("train")
        assert listing is not None
        return sort_names({*listing[1]})

    @property
    def by_content(self) -> bool:  # type: ignore[override]
        """Whether the content of pictures decides how they are split; see ``Source``."""
        return self._listing("test") is None

    def prepare(self) -> None:
        """Decodes the training part into the cache, if it goes there."""
        names = self.class_names
        check(len(names) > 1, f"data.source: there is one class only, {names[0]}: at least two are needed")
        if self.transform is None:
            self.load(train=True)

    def load(self, train: bool) -> tuple[Rows, Tensor]:
        """Reads the training part or the test part; see ``Source.load``."""
        own = self._listing("test")
        images, labels, digests, paths = self._read("train" if train or own is None else "test")
        if own is None:
            part = self._split(labels, digests)[not train]
            what = f"data.source: test_size {self.test_size} of {len(labels):,} pictures leaves none"
            check(len(part) > 0, f"{what} to {'train' if train else 'test'} on: give a test part or another test_size")
            images, labels, digests = images.select(part), labels[part], digests[part]
            paths = [paths[index] for index in part.tolist()]
        self._loaded[train] = (digests, paths)
        return images, labels

    def load_val(self) -> tuple[Rows, Tensor, Tensor] | None:
        """Reads the validation part, if there is one; see ``Source.load_val``."""
        return self._read("val")[:3] if self._listing("val") else None

    def digests(self, train: bool) -> Tensor:
        """Returns a number for the content of each image; see ``Source.digests``."""
        return self._facts(train)[0]

    def paths(self, train: bool) -> list[str]:
        """Returns the file of each image; see ``Source.paths``."""
        return self._facts(train)[1]

    def _facts(self, train: bool) -> tuple[Tensor, list[str]]:
        if train not in self._loaded:
            self.load(train)
        return self._loaded[train]

    def _read(self, part: Part) -> tuple[Rows, Tensor, Tensor, list[str]]:
        """Returns images, labels, digests and paths of a part."""
        listing = self._listing(part)
        assert listing is not None
        pictures, names = listing
        numbers = {name: number for number, name in enumerate(self.class_names)}
        unknown = ", ".join(sorted({*names} - {*numbers}))
        check(not unknown, f"data.source: the {part} part has classes that the training part lacks: {unknown}")
        how = (self.conversion, self.image_shape)
        decoded = decode(pictures, how, self.transform, self.skip_broken, self._print)
        self._print(decoded.notice)
        kept = decoded.kept.tolist()
        check(bool(kept), f"data.source: not one picture of the {part} part can be read")
        lost = sorted({*numbers} & {*names} - {names[index] for index in kept}) if part == "train" else []
        check(not lost, f"data.source: of these classes not one picture can be read: {', '.join(lost)}")
        labels = torch.tensor([numbers[names[index]] for index in kept])
        return Rows(decoded.images, decoded.kept), labels, decoded.digests, [_path(pictures[index]) for index in kept]

    def _print(self, note: str) -> None:
        """Prints a note once, whatever is prepared and loaded again, and from one process of each machine."""
        rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        if note and note not in self._printed and rank == "0":
            self._printed.add(note)
            print(f"note: {plain(note)}", file=sys.stderr)

    def _split(self, labels: Tensor, digests: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the indices of the training part and of the test part."""
        total = len(labels)
        size = min(total, resolve_size(self.test_size, total))
        if self.test_size == 0 or size == total:
            return torch.arange(total - size), torch.arange(total - size, total)
        return split_by_content(digests, labels, self.test_size if self.test_size < 1 else size / total, "test")


def _path(picture: Picture) -> str:
    """Returns the file of a picture, or its place inside one; bytes that are not text are escaped."""
    place = picture.file if picture.content is None else picture.place.rstrip(":")
    return os.fsencode(place).decode(errors="backslashreplace")


def sort_names(names: set[str]) -> list[str]:
    """Sorts names of classes; numbers, of any length, by their value."""

    def key(name: str) -> tuple[bool, int, str, str]:
        digits = name.lstrip("0") if name.isdecimal() else ""
        return not name.isdecimal(), len(digits), digits, name

    return sorted(names, key=key)


def name_label(label: Any, names: list[str] | None, place: str) -> str:
    """Returns the name of a class.

    Args:
        label: Its name, or its number, from 0.
        names: All names, if they are known.
        place: Where the label is, for an error message.
    """
    text = clean_name(re.sub(r"^(\d+)\.0+$", r"\1", "" if label is None else str(label)))  # as tables of floats have it
    check(bool(text), f"{place} the label is missing")
    if not names or (isinstance(label, str) and text in names):
        return text
    known = text.isdecimal() and len(text) < 10 and int(text) < len(names)
    check(known, f"{place} unknown class {text!r}: the labels are 0 to {len(names) - 1}, or names")
    return names[int(text)]


def check_case(names: Iterable[str], place: str) -> None:
    """Refuses two classes whose names differ only in case: on other machines they would be one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        check(other == name, f"data.source: {place} has classes that differ in case only: {other} and {name}")
