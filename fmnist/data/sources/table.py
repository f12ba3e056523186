"""Pictures that a table names."""

import csv
from collections.abc import Callable
from typing import Any

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import SUFFIXES
from fmnist.data.sources.pictures import Listing, _Pictures, check_case
from fmnist.errors import UserError, check
from fmnist.files import expand


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
        conversion: ``photo-2`` trims, centres and takes the distance from a plain background, ``photo`` inverts
            a light one, as versions before 0.2 did; ``resize`` only turns grey and resizes.
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
        conversion: Conversion = "photo-2",
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
