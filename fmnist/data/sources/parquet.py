"""Pictures inside Parquet files."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.sources.pictures import Listing, Part, Rule, _Pictures, clean_name
from fmnist.errors import UserError, check
from fmnist.files import expand

PARTS = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}  # how names of files begin, in any case
IMAGES = ("image", "img", "picture")  # usual names of the two columns
LABELS = ("label", "labels", "fine_label", "class", "target")


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

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        about = _features(json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}")))
        image = _find(names, asked[0], "image", [key for key in names if _kind(about, key) == "Image"] or IMAGES, file)
        kinds = [key for key in names if _kind(about, key) == "ClassLabel"]
        label = _find(names, asked[1], "label", kinds if len(kinds) == 1 else LABELS, file)
        rows = table.read([image, label]).to_pydict()
    except (pyarrow.ArrowException, ValueError) as error:
        raise UserError(f"data.source: {file} is not a Parquet file ({error})") from error
    known = _label_names(about.get(label))
    pictures, labels = [], []
    for number, (picture, value) in enumerate(zip(rows[image], rows[label], strict=True), 1):
        place = f"{file} row {number}:"
        content = picture.get("bytes") if isinstance(picture, dict) else picture
        check(isinstance(content, bytes), f"{place} the picture's bytes are missing")
        pictures.append(Picture(place, str(file), content))
        labels.append(_name(value, known, place))
    return pictures, labels, known


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
    line = f"data.source: {file} lacks the column {asked or what}; it has {', '.join(names)}"
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
