"""Pictures inside Parquet files."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.sources.pages import measure_pages
from fmnist.data.sources.pictures import Listing, Part, Rule, _Pictures, clean_name
from fmnist.errors import UserError, check
from fmnist.files import expand

PARTS = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}  # how names of files begin, in any case
IMAGES = ("image", "img", "picture")  # usual names of the two columns
LABELS = ("label", "labels", "fine_label", "class", "target")
MAX_ROWS = 1_000_000  # of a file
SPARE, GROWTH = 100_000_000, 10  # a file may become ten times as large as it is, and 100 MB
BATCH, BATCH_BYTES = 1000, 20_000_000  # rows that are decoded at once, and what they may take
MAX_METADATA = 1_000_000  # bytes of what Hugging Face says of the columns


class Parquet(_Pictures):
    """Tables with a column of pictures, as bytes, and one of labels, as Hugging Face publishes image data sets.

    Needs ``pip install 'fmnist[parquet]'``.

    Args:
        path: A file; a pattern for several; or a folder with ``train*.parquet``, ``test*.parquet``, ``val*.parquet``.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``photo-2`` trims, centres and takes the distance from a plain background, ``photo`` inverts
            a light one, as versions before 0.2 did; ``resize`` only turns grey and resizes.
        image_column: Name of the column with the pictures, where the metadata and usual names do not tell.
        label_column: Name of the column with the labels.
        skip_broken: Leave out pictures that cannot be read, and say how many.
        split_by: What decides where a picture belongs: its ``content``, whatever other pictures there are, or the
            ``order`` of all, as in versions before 0.2.
    """

    def __init__(
        self,
        path: str,
        test_size: int | float = 0.2,
        conversion: Conversion = "photo-2",
        image_column: str | None = None,
        label_column: str | None = None,
        skip_broken: bool = False,
        split_by: Rule = "content",
    ) -> None:
        super().__init__(test_size, conversion, skip_broken, split_by)
        self.path = path
        self.columns = (image_column, label_column)
        self.label_names: list[str] = []
        check(importlib.util.find_spec("pyarrow") is not None, "Parquet needs pyarrow: pip install 'fmnist[parquet]'")

    def _list(self, part: Part) -> Listing | None:
        path = expand(self.path)
        if path.is_dir():
            found = _parquet_files(path) or (_parquet_files(path / "data") if (path / "data").is_dir() else [])
            files = [file for file in found if file.name.casefold().startswith(PARTS[part])]
            check(bool(files) or part != "train", f"data.source: {path} holds no files train*.parquet")
        elif part != "train":
            return None
        else:
            files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
            check(bool(files), f"data.source: there is no file {path}")
        pictures, names = [], []
        for file in files:
            some, labels, known = _read_parquet(file, self.columns)
            if part == "train":
                self.label_names = known
            pictures += some
            names += labels
        return (pictures, names) if files else None

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """What the metadata name, or the labels of the training part, sorted."""
        found = super().class_names
        return self.label_names or found


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.casefold() == ".parquet")


def _read_parquet(file: Path, asked: tuple[str | None, str | None]) -> tuple[list[Picture], list[str], list[str]]:
    """Returns pictures, names of their classes, and the names that the metadata tell."""
    import pyarrow
    import pyarrow.parquet

    check(file.is_file(), f"data.source: {file} is not a file")
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            about = _read_features(table.schema_arrow.metadata or {})
            usual = [key for key in names if _kind(about, key) == "Image"] or IMAGES
            image = _find(names, asked[0], "image", usual, file)
            kinds = [key for key in names if _kind(about, key) == "ClassLabel"]
            label = _find(names, asked[1], "label", kinds if len(kinds) == 1 else LABELS, file)
            rows = [*_read_rows(file, table, image, label)]
    except (pyarrow.ArrowException, ValueError, KeyError, RecursionError) as error:
        raise UserError(f"data.source: {file} is not a Parquet file that can be read ({error})") from error
    known = _label_names(about.get(label))
    pictures, labels = [], []
    for number, (content, value) in enumerate(rows, 1):
        place = f"{file} row {number}:"
        check(isinstance(content, bytes), f"{place} the picture's bytes are missing")
        pictures.append(Picture(place, str(file), content))
        labels.append(_name(value, known, place))
    return pictures, labels, known


def _read_rows(file: Path, table: Any, image: str, label: str) -> Iterator[tuple[Any, Any]]:
    """Yields the bytes and the label of each row, as long as they are not too large for such a file.

    Raises:
        ValueError: They are, or the columns hold something else.
    """
    columns = [_find_bytes(table.schema_arrow, image), _check_flat(table.schema_arrow, label)]
    numbers = [number for number, column in enumerate(table.schema) if column.path in columns]
    size = file.stat().st_size
    left, rows = SPARE + GROWTH * size, min(MAX_ROWS, size)  # a row has a byte at least
    sizes = [*measure_pages(file, table.metadata, numbers)]
    if sum(sizes) > left or table.metadata.num_rows > rows:
        raise ValueError(f"{table.metadata.num_rows:,} rows of {sum(sizes) / 1e6:,.0f} MB are too much for its size")
    at_once = min(BATCH, max(1, BATCH_BYTES // max(1, *sizes, 1)))
    for batch in table.iter_batches(at_once, columns=columns, use_threads=False):
        contents, labels = (batch.column(key).to_pylist() for key in (image, label))
        contents = [content.get("bytes") if isinstance(content, dict) else content for content in contents]
        rows -= len(labels)
        left -= sum(len(content) for content in contents if content) + sum(len(str(value)) for value in labels)
        if left < 0 or rows < 0:
            raise ValueError("its pictures are too many or too large for its size")
        yield from zip(contents, labels, strict=True)


def _find_bytes(schema: Any, image: str) -> str:
    """Returns the path of the column that holds the bytes of the pictures, which may be a part of ``image``."""
    from pyarrow import types

    kind, path = schema.field(image).type, image
    if types.is_struct(kind) and (index := kind.get_field_index("bytes")) >= 0:
        kind, path = kind.field(index).type, f"{image}.bytes"
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)):
        raise ValueError(f"in the column {image} the bytes are missing: it holds {str(kind)[:60]}")
    return path


def _check_flat(schema: Any, label: str) -> str:
    """Returns the name of a column of labels, none of which can be larger than it is stored."""
    from pyarrow import BaseExtensionType, types

    kind = schema.field(label).type
    if types.is_nested(kind) or types.is_fixed_size_binary(kind) or isinstance(kind, BaseExtensionType):
        raise ValueError(f"the column {label} holds no labels but {str(kind)[:60]}")
    return label


def _read_features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    text = metadata.get(b"huggingface", b"{}")
    if len(text) > MAX_METADATA:
        raise ValueError("its metadata are too large")
    return _features(json.loads(text))


def _features(about: Any) -> dict[str, Any]:
    """Returns what the metadata of Hugging Face say of each column."""
    for key in ("info", "features"):
        about = about.get(key) if isinstance(about, dict) else None
    return about if isinstance(about, dict) else {}


def _kind(about: dict[str, Any], column: str) -> Any:
    feature = about.get(column)
    return feature.get("_type") if isinstance(feature, dict) else None


def _find(names: list[str], asked: str | None, what: str, usual: Any, file: Path) -> str:
    """Returns the column that is asked for, or the first of the usual ones."""
    found = [name for name in ([asked] if asked else usual) if name in names]
    line = f"data.source: {file} lacks the column {asked or what}; it has {', '.join(names[:20])}"
    check(bool(found), f"{line}: name one with --data.source.{what}_column")
    return str(found[0])


def _label_names(feature: Any) -> list[str]:
    """Returns the names of the classes in the metadata of Hugging Face; none if they are not there."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = [*names.values()]
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _name(label: Any, known: list[str], place: str) -> str:
    check(label is not None, f"{place} the label is missing")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if known and isinstance(label, int):
        check(0 <= label < len(known), f"{place} there is no class {label}: the labels are 0 to {len(known) - 1}")
        return known[label]
    return clean_name(str(label))
