"""Fashion-MNIST as a source."""

from torch import Tensor

from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.data.sources.source import Source


class FashionMNIST(Source):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothing in ten classes.

    Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747.

    Args:
        root: Folder for the files, which are put into ``root/FashionMNIST/raw`` as torchvision does.
        download: Whether missing files may be fetched from the network.
    """

    class_names = VerifiedFashionMNIST.classes
    pixels = (0.2860, 0.3530)

    def __init__(self, root: str = "data", download: bool = True) -> None:
        self.root = root
        self.download = download

    def prepare(self) -> None:
        """Finds or fetches the four files and verifies them."""
        VerifiedFashionMNIST(self.root, train=False, download=self.download)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads 60,000 or 10,000 images; see ``Source.load``."""
        dataset = VerifiedFashionMNIST(self.root, train=train, download=self.download)
        return dataset.data.unsqueeze(1), dataset.targets
