"""Pictures that a table names."""

import codecs
import csv
import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmnist.data.cache import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import SUFFIXES
from fmnist.data.sources.pictures import Listing, Part, PictureSource, check_case, name_label
from fmnist.data.sources.source import clean_name
from fmnist.errors import UserError, check
from fmnist.files import expand, read_bytes

Rows = list[tuple[int, list[str]]]  # the number of each line, and its cells
FILES = ("file", "filename", "file_name", "path", "image", "img", "picture")  # usual names of the two columns
LABELS = ("label", "labels", "class", "category", "target")
MAX_BYTES, MAX_CELLS = 100_000_000, 5_000_000  # of a table; a table of a million pictures has fewer


class CSV(PictureSource):
    """Pictures listed in a table as spreadsheets write it, one per row. A first row without a picture is a header.

    Args:
        annotations_file: The table of the training part.
        img_dir: Folder of the pictures.
        test_annotations_file: The table of the test part.
        label_names: Names of the classes, if the labels are numbers from 0.
        transform: Function or class that is applied to each PIL image before the conversion.
        target_transform: Function or class that is applied to each label, as text.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``distance`` (grey) trims, centres and takes the distance from a plain background; ``resize``, the
            default for colour, fits the picture in; ``crop`` fills the image from the middle of the picture.
        file_column: Name of the column with the files, where usual names do not tell.
        label_column: Name of the column with the labels.
        skip_broken: Leave out pictures that cannot be read, and say how many.
        image_size: Height and width of the images: a number for squares, or both in a list.
        color: Keep the colours, in three channels; otherwise images are grey.
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
        conversion: Conversion | None = None,
        file_column: str | None = None,
        label_column: str | None = None,
        skip_broken: bool = False,
        image_size: int | list[int] = 28,
        color: bool = False,
    ) -> None:
        super().__init__(test_size, conversion, skip_broken, image_size, color)
        self.annotations_file = annotations_file
        self.img_dir = img_dir
        self.test_annotations_file = test_annotations_file
        self.label_names = label_names and [clean_name(name) for name in label_names]
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
        option = "annotations_file" if part == "train" else "test_annotations_file"
        check(path.exists(), f"data.source: there is no file {path}: give --data.source.{option} FILE")
        pictures, names = [], []
        for number, (name, label) in self._choose(_read_rows(path), path, folder):
            place, file = f"{path} line {number}:", _find_file(folder, name.replace("\\", "/"))
            check(file.is_file(), f"{place} there is no file {file}")
            pictures.append(Picture(f"{place} {file}", str(file)))
            label = str(self.target_transform(label)) if self.target_transform else label
            names.append(name_label(label, self.label_names, place))
        check(bool(pictures), f"data.source: {path} names no pictures")
        check_case(sorted({*names}), str(path))
        return pictures, names

    def _choose(self, rows: Rows, path: Path, folder: Path) -> Rows:
        """Returns file and label of each row, without the header."""
        head = rows[0][1] if rows else []
        check(bool(head), f"data.source: {path} is empty")
        check(not head[0].startswith(("{", "[")), f"data.source: {path} is JSON: write it as a table with commas")
        check(len(head) != 1, f"data.source: {path} is not a table in CSV: its first line has one column")
        pixels = "holds the pixels, not files of pictures: read it with a source of your own, such as examples/npz.py"
        check(len(head) < 784, f"data.source: {path} {pixels}")
        header = not any(_is_picture(cell, folder) for cell in head)
        file, label = self._find_columns(head, header, path)
        for number, cells in rows:
            whole = len(cells) >= len(head) and not any(cells[len(head) :])
            what = f"{len(cells)} columns instead of {len(head)}, file and label among them"
            check(whole, f"{path} line {number}: {what}")
        return [(number, [cells[file], cells[label]]) for number, cells in rows[header:]]

    def _find_columns(self, head: list[str], header: bool, path: Path) -> tuple[int, int]:
        """Returns the numbers of the columns of files and of labels: as given, by usual names, or the only two."""
        keys = [clean_name(cell).casefold() for cell in head] if header else []
        for name in filter(None, (self.file_column, self.label_column)):
            there = clean_name(name).casefold() in keys
            check(there, f"data.source: {path} has no column {name}; its first line is {', '.join(head[:20])}")
        file, label = _find(keys, self.file_column, FILES), _find(keys, self.label_column, LABELS)
        if len(head) == 2 and file is None:
            file = 0 if label is None else 1 - label
        if len(head) == 2 and label is None and file is not None:
            label = 1 - file
        if file is None or label is None:
            which = "--data.source.file_column and --data.source.label_column"
            raise UserError(f"{path} line 1: its columns are {', '.join(head[:20])}; name two of them with {which}")
        return file, label


def _read_rows(path: Path) -> Rows:
    """Reads the rows that are not empty, without an index, and without columns that are."""
    try:
        text = _decode(read_bytes(path, MAX_BYTES))
        separator = text[4:5] if text[:4].lower() == "sep=" else None
        lines = text.count("\n") + text.count("\r")
        delimiter = separator or (_guess(text) if lines < MAX_CELLS else ",")
        if lines + text.count(delimiter) > MAX_CELLS:
            raise ValueError(f"it has more than {MAX_CELLS:,} cells")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (csv.Error, TypeError, ValueError) as error:
        raise UserError(f"data.source: {path} is not a table in CSV ({error})") from error
    rows = [(number, row) for number, row in rows[separator is not None :] if any(row)]
    if spare := min((_count_spare(row) for _, row in rows), default=0):  # a comma ends each line
        rows = [(number, row[:-spare]) for number, row in rows]
    if rows and len(rows[0][1]) > 2 and not rows[0][1][0]:  # the index that pandas writes
        rows = [(number, row[1:]) for number, row in rows]
    return rows


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
    """Returns the separator that divides the first line most often; a blank if there is no other."""
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")[:100_000]
    columns = {separator: len(next(csv.reader([first], delimiter=separator), [])) for separator in ",;\t|"}
    best = max(columns, key=lambda separator: columns[separator])
    return best if columns[best] > 1 else " "


def _find(keys: list[str], given: str | None, usual: tuple[str, ...]) -> int | None:
    wanted = (clean_name(given).casefold(),) if given else usual
    found = [index for index, key in enumerate(keys) if key in wanted]
    return found[0] if len(found) == 1 else None


def _find_file(folder: Path, name: str) -> Path:
    """Finds a file that the table writes in another Unicode form than the disk, or without its ending."""
    path = folder / name
    if path.is_file():
        return path
    forms = [folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    for files in (
        forms,
        [file.with_name(file.name + suffix) for file in (path, *forms) if file.name for suffix in SUFFIXES],
    ):
        there = {str(file): file for file in files if file.is_file()}
        if len(there) == 1:
            return there.popitem()[1]
    return path


def _is_picture(cell: str, folder: Path) -> bool:
    return cell.lower().endswith(SUFFIXES) or (bool(cell) and _find_file(folder, cell).is_file())
