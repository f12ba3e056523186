"""A folder of pictures for each class."""

import os
from collections import Counter
from pathlib import Path

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import SUFFIXES, find_in_folder, is_hidden, walk
from fmnist.data.sources.pictures import Listing, Part, Rule, _Pictures, check_case, clean_name
from fmnist.errors import check
from fmnist.files import expand

# Names of the folders of each part, in any case
PARTS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
MADE_BY_WINDOWS = {"thumbs.db", "desktop.ini"}


class ImageFolder(_Pictures):
    """Pictures in a folder per class: ``folder/CLASS/*``, or that in ``folder/train``, ``folder/test``, ``folder/val``.

    Args:
        folder: The folder.
        test_size: Without a test part: pictures to test on, a number or a share below 1.
        conversion: ``photo-2`` trims, centres and takes the distance from a plain background, ``photo`` inverts
            a light one, as versions before 0.2 did; ``resize`` only turns grey and resizes.
        skip_broken: Leave out pictures that cannot be read, and say how many.
        split_by: What decides where a picture belongs: its ``content``, whatever other pictures there are, or the
            ``order`` of all, as in versions before 0.2.
    """

    def __init__(
        self,
        folder: str,
        test_size: int | float = 0.2,
        conversion: Conversion = "photo-2",
        skip_broken: bool = False,
        split_by: Rule = "content",
    ) -> None:
        super().__init__(test_size, conversion, skip_broken, split_by)
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
            self._say(f"{self.folder} has files that are not read, by their ending: {some}")

    def _list(self, part: Part) -> Listing | None:
        top = expand(self.folder)
        check(top.is_dir(), f"data.source: there is no folder {top}")
        parts = {path.name.casefold(): path for path in _folders(top) if _folders(path)}
        if any(name in parts for name in PARTS["train"]):
            found = [parts[name] for name in PARTS[part] if name in parts]
            return self._list_classes(found[0]) if found else None
        return self._list_classes(top) if part == "train" else None

    def _list_classes(self, top: Path) -> Listing:
        folders = _folders(top)
        check(bool(folders), f"data.source: {top} holds no folders: one for each class is needed")
        if len(folders) == 1 and len(_folders(folders[0])) > 1:
            line = f"data.source: {top} holds one folder only; if the classes are the folders in it"
            check(False, f"{line}, give --data.source.folder {folders[0]}")
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
