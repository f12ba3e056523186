"""Pictures inside Parquet files."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.sources.pictures import Listing, _Pictures
from fmnist.errors import UserError, check
from fmnist.files import expand


class Parquet(_Pictures):
    """Tables with the columns ``image`` (bytes) and ``label``, as Hugging Face publishes image data sets.

    Needs ``pip install 'fmnist[parquet]'``.

    Args:
        path: A file; a pattern for several; or a folder with ``train*.parquet`` and ``test*.parquet``.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``photo-2`` trims, centres and takes the distance from a plain background, ``photo`` inverts
            a light one, as versions before 0.2 did; ``resize`` only turns grey and resizes.
    """

    def __init__(self, path: str, test_size: int | float = 0.2, conversion: Conversion = "photo-2") -> None:
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
