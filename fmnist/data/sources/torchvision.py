"""Data sets of torchvision with the format of Fashion-MNIST."""

from typing import Any, Literal

from torch import Tensor

from fmnist.data.sources.source import Source
from fmnist.errors import UserError, check


class TorchVision(Source):
    """A data set of torchvision with the format of Fashion-MNIST.

    Args:
        name: ``MNIST``, ``KMNIST``, ``QMNIST`` or ``EMNIST`` (its balanced split, of 47 classes).
        folder: Folder for its files, which are downloaded if they are missing.
    """

    def __init__(self, name: Literal["MNIST", "KMNIST", "QMNIST", "EMNIST"], folder: str = "data") -> None:
        self.name = name
        self.folder = folder

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """The data set's own names, known without its files."""
        from torchvision import datasets

        emnist = self.name == "EMNIST"
        return datasets.EMNIST.classes_split_dict["balanced"] if emnist else [*getattr(datasets, self.name).classes]

    def prepare(self) -> None:
        """Downloads what is missing."""
        for train in (True, False):
            self._open(train)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads the training part or the test part; see ``Source.load``."""
        dataset = self._open(train)
        images, labels = dataset.data.unsqueeze(1), dataset.targets
        if labels.ndim > 1:  # QMNIST says where each digit was found as well
            labels = labels[:, 0]
        if self.name == "EMNIST":  # is stored with rows and columns exchanged
            images = images.transpose(2, 3).contiguous()
        fits = images.shape == (len(labels), 1, 28, 28) and {*labels.tolist()} <= {*range(len(self.class_names))}
        check(fits, f"data.source: the files of {self.name} in {self.folder} are damaged: delete them")
        return images, labels.long()

    def _open(self, train: bool) -> Any:
        from torchvision import datasets

        options: dict[str, Any] = {"split": "balanced"} if self.name == "EMNIST" else {}
        try:
            return getattr(datasets, self.name)(self.folder, train=train, download=True, **options)
        except Exception as error:  # torchvision trusts what the files say of themselves
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"data.source: {self.name} could not be downloaded or read: {reason}") from error
