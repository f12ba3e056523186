"""Where labelled images come from. ``data.source`` names one of these classes."""

from abc import ABC, abstractmethod

from torch import Tensor

from fmnist import fashion_mnist


class Source(ABC):
    """Labelled images of one fixed format, held in memory."""

    class_names: list[str]

    @abstractmethod
    def prepare(self) -> None:
        """Makes sure that everything is on disk. Runs on one process of each machine."""

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads the training part or the test part.

        Returns:
            Images, uint8 (N, 1, 28, 28), and labels, int64 (N,), as indices into ``class_names``.
        """


class FashionMNIST(Source):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothing in ten classes.

    Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747.

    Args:
        root: Folder for the files, which are put into ``root/FashionMNIST/raw`` as torchvision does.
        download: Whether missing files may be fetched from the network.
    """

    class_names = fashion_mnist.FashionMNIST.classes

    def __init__(self, root: str = "data", download: bool = True) -> None:
        self.root = root
        self.download = download

    def prepare(self) -> None:
        """Finds or fetches the four files and verifies them."""
        fashion_mnist.FashionMNIST(self.root, train=False, download=self.download)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads 60,000 or 10,000 images; see ``Source.load``."""
        dataset = fashion_mnist.FashionMNIST(self.root, train=train, download=self.download)
        return dataset.data.unsqueeze(1), dataset.targets
