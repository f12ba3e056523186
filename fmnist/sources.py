"""Where labelled images come from. ``data.source`` names one of these classes."""

import csv
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fmnist import fashion_mnist
from fmnist.decode import Conversion, Picture, decode
from fmnist.errors import UserError, check
from fmnist.files import expand
from fmnist.photos import SUFFIXES, find_in_folder
from fmnist.split import resolve_size, stratified_split


class Source(ABC):
    """Labelled images of one fixed format, held in memory."""

    class_names: list[str]

    @abstractmethod
    def prepare(self) -> None:
        """Makes sure that everything is on disk. Runs on one process of each machine."""

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads the training part or the test part.

        Returns:
            Images, uint8 (N, 1, 28, 28), and labels, int64 (N,), as indices into ``class_names``.
        """


class FashionMNIST(Source):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothing in ten classes.

    Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747.

    Args:
        root: Folder for the files, which are put into ``root/FashionMNIST/raw`` as torchvision does.
        download: Whether missing files may be fetched from the network.
    """

    class_names = fashion_mnist.FashionMNIST.classes

    def __init__(self, root: str = "data", download: bool = True) -> None:
        self.root = root
        self.download = download

    def prepare(self) -> None:
        """Finds or fetches the four files and verifies them."""
        fashion_mnist.FashionMNIST(self.root, train=False, download=self.download)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads 60,000 or 10,000 images; see ``Source.load``."""
        dataset = fashion_mnist.FashionMNIST(self.root, train=train, download=self.download)
        return dataset.data.unsqueeze(1), dataset.targets


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


class ImageFolder(_Pictures):
    """Pictures in a folder per class: ``folder/train/CLASS/*`` and ``folder/test/CLASS/*``, or ``folder/CLASS/*``.

    Args:
        folder: The folder.
        test_size: Without ``train`` and ``test``: pictures to test on, a number or a share below 1.
        conversion: ``photo`` trims, centres and inverts a light background, as the data set was made;
            ``resize`` only turns grey and resizes.
    """

    def __init__(self, folder: str, test_size: int | float = 0.2, conversion: Conversion = "photo") -> None:
        super().__init__(test_size, conversion)
        self.folder = folder

    def _list(self, train: bool) -> Listing | None:
        top = expand(self.folder)
        if (top / "train").is_dir():
            top = top / ("train" if train else "test")
            if not (train or top.is_dir()):
                return None
        elif not train:
            return None
        check(top.is_dir(), f"data.source: there is no folder {top}")
        folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
        check(bool(folders), f"data.source: {top} holds no folders: one for each class is needed")
        check_case([path.name for path in folders], str(top))
        pictures, names = [], []
        for folder in folders:
            files = find_in_folder(folder)
            check(bool(files), f"data.source: {folder} holds no pictures ({', '.join(SUFFIXES)})")
            pictures += [Picture(file, file) for file in files]
            names += [folder.name] * len(files)
        return pictures, names


def check_case(names: list[str], place: str) -> None:
    """Refuses two classes whose names differ in case only: on other machines they would be one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        check(other == name, f"data.source: {place} has classes that differ in case only: {other} and {name}")


class CSV(_Pictures):
    """Pictures named in a table, a row each: file, label. A first row without a picture is a header.

    Args:
        annotations_file: The table of the training part.
        img_dir: Folder of the pictures.
        test_annotations_file: The table of the test part.
        label_names: Names of the classes, if the labels are numbers from 0.
        transform: Function or class that is applied to each PIL image before the conversion.
        target_transform: Function or class that is applied to each label, as text.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``photo`` trims, centres and inverts a light background, as the data set was made;
            ``resize`` only turns grey and resizes.
    """

    def __init__(
        self,
        annotations_file: str,
        img_dir: str,
        test_annotations_file: str | None = None,
        label_names: list[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        test_size: int | float = 0.2,
        conversion: Conversion = "photo",
    ) -> None:
        super().__init__(test_size, conversion)
        self.annotations_file = annotations_file
        self.img_dir = img_dir
        self.test_annotations_file = test_annotations_file
        self.label_names = label_names
        self.transform = transform
        self.target_transform = target_transform

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """``label_names``, or what the training table names, sorted."""
        return self.label_names or super().class_names

    def _list(self, train: bool) -> Listing | None:
        table = self.annotations_file if train else self.test_annotations_file
        if table is None:
            return None
        path, folder = expand(table), expand(self.img_dir)
        pictures, names = [], []
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = [(number, row) for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"data.source: {path} is not a table in CSV ({error})") from error
        for position, (number, row) in enumerate(rows):
            place = f"{path} line {number}:"
            check(len(row) == 2, f"{place} {len(row)} columns instead of two, file and label")
            name, label = row[0].strip(), row[1].strip()
            if position == 0 and not name.lower().endswith(SUFFIXES) and not (folder / name).is_file():
                continue
            check((folder / name).is_file(), f"{place} there is no file {folder / name}")
            pictures.append(Picture(f"{place} {folder / name}", str(folder / name)))
            names.append(self._name(label, place))
        check(bool(pictures), f"data.source: {path} names no pictures")
        check_case(sorted({*names}), str(path))
        return pictures, names

    def _name(self, label: str, place: str) -> str:
        if self.target_transform:
            label = str(self.target_transform(label))
        check(bool(label), f"{place} the label is missing")
        if self.label_names is None or label in self.label_names:
            return label
        known = label.isdecimal() and int(label) < len(self.label_names)
        check(known, f"{place} there is no class {label!r}: the labels are 0 to {len(self.label_names) - 1}, or names")
        return self.label_names[int(label)]


class Parquet(_Pictures):
    """Tables with the columns ``image`` (bytes) and ``label``, as Hugging Face publishes image data sets.

    Needs ``pip install 'fmnist[parquet]'``.

    Args:
        path: A file; a pattern for several; or a folder with ``train*.parquet`` and ``test*.parquet``.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``photo`` trims, centres and inverts a light background, as the data set was made;
            ``resize`` only turns grey and resizes.
    """

    def __init__(self, path: str, test_size: int | float = 0.2, conversion: Conversion = "photo") -> None:
        super().__init__(test_size, conversion)
        self.path = path
        self.label_names: list[str] = []
        check(importlib.util.find_spec("pyarrow") is not None, "Parquet needs pyarrow: pip install 'fmnist[parquet]'")

    def _list(self, train: bool) -> Listing | None:
        path = expand(self.path)
        if path.is_dir():
            files = sorted(path.glob(f"{'train' if train else 'test'}*.parquet"))
            if not (files or train):
                return None
            check(bool(files), f"data.source: {path} holds no files train*.parquet")
        elif not train:
            return None
        else:
            files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
            check(bool(files), f"data.source: there is no file {path}")
        pictures, names = [], []
        for file in files:
            some, labels, known = _read_parquet(file)
            if train:
                self.label_names = known
            pictures += some
            names += labels
        return pictures, names

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """What the metadata name, or the labels of the training part, sorted."""
        found = super().class_names
        return self.label_names or found


def _read_parquet(file: Path) -> tuple[list[Picture], list[str], list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        missing = {"image", "label"} - {*columns}
        check(not missing, f"data.source: {file} lacks the column {' and '.join(missing)}; it has {', '.join(columns)}")
        rows = table.read(["image", "label"]).to_pydict()
        about = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, ValueError) as error:
        raise UserError(f"data.source: {file} is not a Parquet file ({error})") from error
    known = _label_names(about)
    pictures, names = [], []
    for number, (image, label) in enumerate(zip(rows["image"], rows["label"], strict=True), 1):
        place = f"{file} row {number}:"
        content = image.get("bytes") if isinstance(image, dict) else image
        check(isinstance(content, bytes), f"{place} the picture's bytes are missing")
        check(label is not None, f"{place} the label is missing")
        if known and isinstance(label, int):
            check(0 <= label < len(known), f"{place} there is no class {label}: the labels are 0 to {len(known) - 1}")
            label = known[label]
        pictures.append(Picture(place, str(file), content))
        names.append(str(label))
    return pictures, names, known


def _label_names(about: Any) -> list[str]:
    """Returns the names of the classes in the metadata of Hugging Face; none if they are not there."""
    for key in ("info", "features", "label", "names"):
        about = about.get(key) if isinstance(about, dict) else None
    return about if isinstance(about, list) and all(isinstance(name, str) for name in about) else []


class TorchVision(Source):
    """A data set of torchvision with the format of Fashion-MNIST.

    Args:
        name: ``MNIST``, ``KMNIST``, ``QMNIST`` or ``EMNIST`` (its balanced split, of 47 classes).
        folder: Folder for its files, which are downloaded if they are missing.
    """

    def __init__(self, name: Literal["MNIST", "KMNIST", "QMNIST", "EMNIST"], folder: str = "data") -> None:
        self.name = name
        self.folder = folder

    @cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """The data set's own names."""
        return [str(name) for name in self._open(train=True).classes]

    def prepare(self) -> None:
        """Downloads what is missing."""
        for train in (True, False):
            self._open(train)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads the training part or the test part; see ``Source.load``."""
        dataset = self._open(train)
        images, labels = dataset.data.unsqueeze(1), dataset.targets
        if labels.ndim > 1:  # QMNIST says where each digit was found as well
            labels = labels[:, 0]
        if self.name == "EMNIST":  # is stored with rows and columns exchanged
            images = images.transpose(2, 3).contiguous()
        fits = images.shape == (len(labels), 1, 28, 28) and {*labels.tolist()} <= {*range(len(self.class_names))}
        check(fits, f"data.source: the files of {self.name} in {self.folder} are damaged: delete them")
        return images, labels.long()

    def _open(self, train: bool) -> Any:
        from torchvision import datasets

        options: dict[str, Any] = {"split": "balanced"} if self.name == "EMNIST" else {}
        try:
            return getattr(datasets, self.name)(self.folder, train=train, download=True, **options)
        except Exception as error:  # torchvision trusts what the files say of themselves
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"data.source: {self.name} cannot be had: {reason}") from error
