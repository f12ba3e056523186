"""A folder of pictures for each class."""

from fmnist.data.decode import Picture
from fmnist.data.photos import Conversion
from fmnist.data.read import SUFFIXES, find_in_folder
from fmnist.data.sources.pictures import Listing, _Pictures, check_case
from fmnist.errors import check
from fmnist.files import expand


class ImageFolder(_Pictures):
    """Pictures in a folder per class: ``folder/train/CLASS/*`` and ``folder/test/CLASS/*``, or ``folder/CLASS/*``.

    Args:
        folder: The folder.
        test_size: Without ``train`` and ``test``: pictures to test on, a number or a share below 1.
        conversion: ``photo-2`` trims, centres and takes the distance from a plain background, ``photo`` inverts
            a light one, as versions before 0.2 did; ``resize`` only turns grey and resizes.
    """

    def __init__(self, folder: str, test_size: int | float = 0.2, conversion: Conversion = "photo-2") -> None:
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
