"""A folder of pictures for each class."""

import os
from collections import Counter
from pathlib import Path

from fmnist.data.cache import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import SUFFIXES, find_in_folder, is_hidden, walk
from fmnist.data.sources.pictures import PARTS, Listing, Part, PictureSource, check_case
from fmnist.data.sources.source import clean_name
from fmnist.errors import check
from fmnist.files import expand

TABLES = (".csv", ".tsv", ".jsonl")
MADE_BY_WINDOWS = {"thumbs.db", "desktop.ini"}


class ImageFolder(PictureSource):
    """Pictures in a folder per class: ``folder/CLASS/*``, or that in ``folder/train``, ``folder/test``, ``folder/val``.

    Args:
        folder: The folder.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``distance`` (grey) trims, centres and takes the distance from a plain background; ``resize``, the
            default for colour, fits the picture in; ``crop`` fills the image from the middle of the picture.
        skip_broken: Leave out pictures that cannot be read, and say how many.
        image_size: Height and width of the images: a number for squares, or both in a list.
        color: Keep the colours, in three channels; otherwise images are grey.
    """

    def __init__(
        self,
        folder: str,
        test_size: int | float = 0.2,
        conversion: Conversion | None = None,
        skip_broken: bool = False,
        image_size: int | list[int] = 28,
        color: bool = False,
    ) -> None:
        super().__init__(test_size, conversion, skip_broken, image_size, color)
        self.folder = folder

    def prepare(self) -> None:
        """Decodes the training part into the cache, and names what is not read."""
        super().prepare()
        listings = [self._listing(part) for part in PARTS]
        read = {picture.file for listing in listings if listing for picture in listing[0]}
        files = (file for file in walk(expand(self.folder)) if file not in read)
        names = (os.path.basename(file) for file in files)  # noqa: PTH119 - there may be a million
        others = Counter(Path(name).suffix.lower() for name in names if name.casefold() not in MADE_BY_WINDOWS)
        if others:
            kinds = [(kind or "no ending") + " in no class" * (kind in SUFFIXES) for kind in others]
            pairs = sorted(zip(others.values(), kinds, strict=True), key=lambda pair: (-pair[0], pair[1]))
            some = ", ".join(f"{count:,} {kind}" for count, kind in pairs[:5])
            self._print(f"{self.folder} has files that are not read, by their ending: {some}")

    def _list(self, part: Part) -> Listing | None:
        top = expand(self.folder)
        check(top.is_dir(), f"data.source: there is no folder {top}: give --data.source.folder FOLDER")
        parts = {path.name.casefold(): path for path in _folders(top) if _folders(path)}
        if any(name in parts for name in PARTS["train"]):
            found = [parts[name] for name in PARTS[part] if name in parts]
            return _list_classes(found[0]) if found else None
        _check_classes(top)
        return _list_classes(top) if part == "train" else None


def _check_classes(top: Path) -> None:
    """Refuses folders that are not those of classes, and names what to give instead."""
    folders = _folders(top)
    check(bool(folders), f"data.source: {top} holds no folders: one for each class is needed")
    if len(folders) == 1 and len(_folders(folders[0])) > 1:
        line = f"data.source: {top} holds one folder only; if the classes are the folders in it"
        check(False, f"{line}, give --data.source.folder {folders[0]}")
    if {folder.name.casefold() for folder in folders} <= {name for names in PARTS.values() for name in names}:
        check(
            not any(map(_folders, folders)), f"data.source: {top} has no training part: call one of its folders train"
        )
        part = next((path for path in folders if path.name.casefold() in PARTS["train"]), folders[0])
        tables = sorted(path for path in part.iterdir() if path.suffix.casefold() in TABLES)
        table = f"--data.source.annotations_file {tables[0] if tables else 'TABLE'}"
        line = f"data.source: {part} holds no folder for each class; with a table of the labels"
        check(False, f"{line}, give --data.source CSV {table} --data.source.img_dir {part}")


def _list_classes(top: Path) -> Listing:
    folders = _folders(top)
    check_case(dict.fromkeys(clean_name(path.name) for path in folders), str(top))
    pictures, names = [], []
    for folder in folders:
        files = find_in_folder(folder)
        check(bool(files), f"data.source: {folder} holds no pictures ({', '.join(SUFFIXES)})")
        pictures += [Picture(file, file) for file in files]
        names += [clean_name(folder.name)] * len(files)
    return pictures, names


def _folders(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir() and not is_hidden(path.name))
