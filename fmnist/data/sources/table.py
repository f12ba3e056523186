"""Pictures that a table names."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import SUFFIXES
from fmnist.data.sources.pictures import Listing, Part, Rule, _Pictures, check_case, clean_name
from fmnist.errors import UserError, check
from fmnist.files import expand, read_bytes

Rows = list[tuple[int, list[str]]]  # the number of each line, and its cells
FILES = ("file", "filename", "file_name", "path", "image", "img", "picture")  # usual heads of the two columns
LABELS = ("label", "labels", "class", "category", "target")
MAX_BYTES, MAX_CELLS = 100_000_000, 5_000_000  # of a table: those of a million pictures have less


class CSV(_Pictures):
    """Pictures named in a table, a row each, as spreadsheets write them. A first row without a picture is a header.

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
        file_column: Head of the column with the files, where it is not plain which that is.
        label_column: Head of the column with the labels.
        skip_broken: Leave out pictures that cannot be read, and say how many.
        split_by: What decides where a picture belongs: its ``content``, whatever other pictures there are, or the
            ``order`` of all, as in versions before 0.2.
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
        file_column: str | None = None,
        label_column: str | None = None,
        skip_broken: bool = False,
        split_by: Rule = "content",
    ) -> None:
        super().__init__(test_size, conversion, skip_broken, split_by)
        self.annotations_file = annotations_file
        self.img_dir = img_dir
        self.test_annotations_file = test_annotations_file
        self.label_names = label_names
        self.transform = transform
        self.target_transform = target_transform
        self.file_column = file_column
        self.label_column = label_column

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """``label_names``, or what the training table names, sorted."""
        return self.label_names or super().class_names

    def _list(self, part: Part) -> Listing | None:
        table = {"train": self.annotations_file, "test": self.test_annotations_file}.get(part)
        if table is None:
            return None
        path, folder = expand(table), expand(self.img_dir)
        pictures, names = [], []
        for number, (name, label) in self._choose(_read_rows(path), path, folder):
            place, file = f"{path} line {number}:", _find_file(folder / name.replace("\\", "/"))
            check(file.is_file(), f"{place} there is no file {file}")
            pictures.append(Picture(f"{place} {file}", str(file)))
            names.append(self._name(label, place))
        check(bool(pictures), f"data.source: {path} names no pictures")
        check_case(sorted({*names}), str(path))
        return pictures, names

    def _choose(self, rows: Rows, path: Path, folder: Path) -> Rows:
        """Returns file and label of each row, without the header."""
        head = rows[0][1] if rows else []
        check(bool(head), f"data.source: {path} is empty")
        check(len(head) != 1, f"data.source: {path} is not a table in CSV: its first line has one column")
        pixels = "holds the pixels, not files of pictures: read it with a source of your own, such as examples/npz.py"
        check(len(head) < 784, f"data.source: {path} {pixels}")
        header = not any(_is_picture(cell, folder) for cell in head)
        keys = [cell.casefold() for cell in head]
        for name in filter(None, (self.file_column, self.label_column)):
            there = header and name.casefold() in keys
            check(there, f"data.source: {path} has no column {name}; its first line is {', '.join(head[:20])}")
        file = _find(keys, self.file_column, FILES) if header else None
        label = _find(keys, self.label_column, LABELS) if header else None
        if file is None and label is None and len(head) == 2 and not (self.file_column or self.label_column):
            file, label = 0, 1
        elif len(head) == 2 and (file is None) != (label is None):
            file, label = (1 - (label or 0), label) if file is None else (file, 1 - file)
        if file is None or label is None:
            which = "--data.source.file_column and --data.source.label_column"
            raise UserError(f"{path} line 1: its columns are {', '.join(head[:20])}; name two of them with {which}")
        for number, cells in rows:
            whole = len(cells) >= len(head) and not any(cells[len(head) :])
            check(
                whole, f"{path} line {number}: {len(cells)} columns instead of {len(head)}, file and label among them"
            )
        return [(number, [cells[file], cells[label]]) for number, cells in rows[header:]]

    def _name(self, label: str, place: str) -> str:
        if self.target_transform:
            label = str(self.target_transform(label))
        label = clean_name(re.sub(r"^(\d+)\.0+$", r"\1", label))  # whole numbers, as tables of floats have them
        check(bool(label), f"{place} the label is missing")
        if self.label_names is None or label in self.label_names:
            return label
        known = label.isdecimal() and int(label) < len(self.label_names)
        check(known, f"{place} there is no class {label!r}: the labels are 0 to {len(self.label_names) - 1}, or names")
        return self.label_names[int(label)]


def _read_rows(path: Path) -> Rows:
    """Reads the rows that are not empty, without an index, and without columns that are."""
    try:
        text = _decode(read_bytes(path, MAX_BYTES))
        separator = text[4:5] if text[:4].lower() == "sep=" else None
        lines = text.count("\n") + text.count("\r")
        delimiter = separator or (_guess(text) if lines < MAX_CELLS else ",")
        if lines + text.count(delimiter) > MAX_CELLS:
            raise ValueError(f"it has more than {MAX_CELLS:,} cells")
        reader = csv.reader(_lines(text), delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (csv.Error, TypeError, ValueError) as error:
        raise UserError(f"data.source: {path} is not a table in CSV ({error})") from error
    rows = [(number, row) for number, row in rows[separator is not None :] if any(row)]
    if spare := min((_count_spare(row) for _, row in rows), default=0):  # a comma ends each line
        rows = [(number, row[:-spare]) for number, row in rows]
    if rows and len(rows[0][1]) > 2 and not rows[0][1][0]:  # the index that pandas writes
        rows = [(number, row[1:]) for number, row in rows]
    return rows


def _lines(text: str) -> Iterator[str]:
    """Yields the lines of a table: only line feeds and carriage returns end one, whatever else stands in a cell."""
    return io.StringIO(text, newline="")


def _count_spare(row: list[str]) -> int:
    """Returns how many cells at the end are empty, behind the first two."""
    return max(0, len(row) - next((count for count in range(len(row), 2, -1) if row[count - 1]), 2))


def _decode(content: bytes) -> str:
    """Decodes text of any of the encodings that spreadsheets write."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _guess(text: str) -> str:
    """Returns the separator that divides the first line most often."""
    first = next((line for line in _lines(text) if line.strip()), "")[:100_000]
    return max(",;\t|", key=lambda separator: len(next(csv.reader([first], delimiter=separator), [])))


def _find(keys: list[str], asked: str | None, usual: tuple[str, ...]) -> int | None:
    wanted = (asked.casefold(),) if asked else usual
    found = [index for index, key in enumerate(keys) if key in wanted]
    return found[0] if len(found) == 1 else None


def _find_file(path: Path) -> Path:
    """Adds the ending of a file that the table leaves out, if that is plain."""
    found = [] if path.is_file() else [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    there = [file for file in found if file.is_file()]
    return there[0] if len(there) == 1 else path


def _is_picture(cell: str, folder: Path) -> bool:
    return cell.lower().endswith(SUFFIXES) or (bool(cell) and (folder / cell).is_file())
