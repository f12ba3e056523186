"""Pictures inside Parquet files."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fmnist.data.cache import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import find_matches, walk
from fmnist.data.sources.pages import measure_pages
from fmnist.data.sources.pictures import PARTS, Listing, Part, PictureSource, name_label
from fmnist.data.sources.source import clean_name
from fmnist.errors import UserError, check
from fmnist.files import expand
from fmnist.names import check_installed

IMAGES = ("image", "img", "picture")  # usual names of the two columns
LABELS = ("label", "labels", "fine_label", "class", "target")
MAX_ROWS = 1_000_000  # of a file
SPARE, GROWTH = 100_000_000, 10  # the content of a file may be ten times as large as the file, plus 100 MB
BATCH, BATCH_BYTES = 1000, 20_000_000  # rows that are decoded at once, and their bytes
MAX_METADATA = 1_000_000  # bytes of Hugging Face's description of the columns


class Parquet(PictureSource):
    """Tables with a column of pictures, as bytes, and one of labels, as Hugging Face publishes image data sets.

    Needs ``pip install -e ".[parquet]"``.

    Args:
        path: A file; a pattern for several; or a folder, in which ``train``, ``test`` and ``val`` in the names of
            files, or of the folders that they are in, tell the parts.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``distance`` (grey) trims, centres and takes the distance from a plain background; ``resize``, the
            default for colour, fits the picture in; ``crop`` fills the image from the middle of the picture.
        image_column: Name of the column with the pictures, where the metadata and usual names do not tell.
        label_column: Name of the column with the labels.
        skip_broken: Leave out pictures that cannot be read, and say how many.
        image_size: Height and width of the images: a number for squares, or both in a list.
        color: Keep the colours, in three channels; otherwise images are grey.
    """

    def __init__(
        self,
        path: str,
        test_size: int | float = 0.2,
        conversion: Conversion | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        skip_broken: bool = False,
        image_size: int | list[int] = 28,
        color: bool = False,
    ) -> None:
        super().__init__(test_size, conversion, skip_broken, image_size, color)
        self.path = path
        self.columns = (image_column, label_column)
        self.label_names: list[str] = []
        check_installed("Parquet", ("pyarrow",), "parquet")

    def _list(self, part: Part) -> Listing | None:
        path = expand(self.path)
        if path.is_dir():
            files = _find_parts(path).get(part, [])
        elif part != "train":
            return None
        else:
            files = [path] if path.is_file() else [Path(name) for name in find_matches(path)]
            check(bool(files), f"data.source: there is no file {path}: give --data.source.path FILE")
            others = {_part_of(other.name) for other in files[0].parent.glob("*.parquet") if other != files[0]}
            if len(files) == 1 and "test" in others:
                self._print(f"{files[0].parent} has a test part as well: give this folder to test on it")
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
        """Names in the metadata, or the labels of the training part, sorted."""
        found = super().class_names
        return self.label_names or found


def _find_parts(top: Path) -> dict[Part, list[Path]]:
    """Finds the files of each part in a folder, or in the only folder in it that has a training part."""
    found = dict[Path, dict[Part, list[Path]]]()  # by the folder that all parts are in
    for file in sorted(Path(name) for name in walk(top) if name.casefold().endswith(".parquet")):
        relative = file.relative_to(top)
        for place in (relative, *relative.parents[:-1]):
            if part := _part_of(place.name):
                found.setdefault((top / place).parent, {}).setdefault(part, []).append(file)
                break
    sets = {folder: parts for folder, parts in found.items() if "train" in parts}
    check(bool(sets), f"data.source: {top} holds no files train*.parquet")
    folders = ", ".join(map(str, [*sets][:5]))
    check(top in sets or len(sets) == 1, f"data.source: {top} holds several data sets: give one of {folders}")
    return sets.get(top) or sets.popitem()[1]


def _part_of(name: str) -> Part | None:
    """Returns the part named by a word in the name of a file or a folder, as in ``train-00000-of-00001.parquet``."""
    words = re.split(r"[-._ 0-9]+", name.casefold())
    return next((part for part, names in PARTS.items() if not {*names}.isdisjoint(words)), None)


def _read_parquet(file: Path, given: tuple[str | None, str | None]) -> tuple[list[Picture], list[str], list[str]]:
    """Returns pictures, the name of the class of each, and the names of classes in the metadata."""
    import pyarrow
    import pyarrow.parquet

    check(file.is_file(), f"data.source: {file} is not a file")
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            about = _read_features(table.schema_arrow.metadata or {})
            kinds = {name: about.get(name, {}).get("_type") for name in names}
            images = [name for name in names if kinds[name] == "Image"]
            labels = [name for name in names if kinds[name] == "ClassLabel"]
            image = _find(names, given[0], "image", images or IMAGES, file)
            label = _find(names, given[1], "label", labels if len(labels) == 1 else LABELS, file)
            rows = [*_read_rows(file, table, image, label)]
    except (pyarrow.ArrowException, ValueError, KeyError, RecursionError) as error:
        raise UserError(f"data.source: {file} is not a Parquet file that can be read ({error})") from error
    known = _label_names(about.get(label, {}).get("names"))
    pictures, classes = [], []
    for number, (content, value) in enumerate(rows, 1):
        place = f"{file} row {number}:"
        check(isinstance(content, bytes), f"{place} the picture's bytes are missing")
        pictures.append(Picture(place, str(file), content))
        classes.append(name_label(value, known, place))
    return pictures, classes, known


def _read_rows(file: Path, table: Any, image: str, label: str) -> Iterator[tuple[Any, Any]]:
    """Yields the bytes and the label of each row.

    Raises:
        ValueError: They are too large for such a file, or the columns hold something else.
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
    """Returns the path of the column that holds the bytes of the pictures: ``image`` or a part of it."""
    from pyarrow import types

    kind, path = schema.field(image).type, image
    if types.is_struct(kind) and (index := kind.get_field_index("bytes")) >= 0:
        kind, path = kind.field(index).type, f"{image}.bytes"
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)):
        raise ValueError(f"in the column {image} the bytes are missing: it holds {str(kind)[:60]}")
    return path


def _check_flat(schema: Any, label: str) -> str:
    """Returns the name of a column of labels, whose type allows none that is larger than it is stored."""
    from pyarrow import BaseExtensionType, types

    kind = schema.field(label).type
    if types.is_nested(kind) or types.is_fixed_size_binary(kind) or isinstance(kind, BaseExtensionType):
        raise ValueError(f"the column {label} holds no labels but {str(kind)[:60]}")
    return label


def _read_features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Returns Hugging Face's description of each column."""
    text = metadata.get(b"huggingface", b"{}")
    if len(text) > MAX_METADATA:
        raise ValueError("its metadata are too large")
    about = json.loads(text)
    for key in ("info", "features"):
        about = about.get(key) if isinstance(about, dict) else None
    about = about if isinstance(about, dict) else {}
    return {name: feature for name, feature in about.items() if isinstance(feature, dict)}


def _find(names: list[str], given: str | None, what: str, usual: Sequence[str], file: Path) -> str:
    """Returns the column that is given, or the first of the usual ones."""
    known = {clean_name(name): name for name in names}
    found = [known[clean_name(name)] for name in ([given] if given else usual) if clean_name(name) in known]
    line = f"data.source: {file} lacks the column {given or what}; it has {', '.join(names[:20])}"
    check(bool(found), f"{line}: name one with --data.source.{what}_column")
    return found[0]


def _label_names(names: Any) -> list[str]:
    names = [*names.values()] if isinstance(names, dict) else names
    plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return [clean_name(name) for name in names] if plain else []
