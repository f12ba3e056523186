"""A source of one's own: images and labels in one file, as Keras and Kaggle hand Fashion-MNIST out."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmnist import FashionMNIST, UserError
from fmnist.data.sources.source import Source


class Arrays(Source):
    """Images from Keras' ``fashion_mnist.npz``, or Kaggle's tables of a label and 784 pixels in a line.

    Args:
        train: A file ``.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test``; or a table of the training images.
        test: A table of the test images; not for ``.npz``.
        class_names: Name of each class.
    """

    def __init__(self, train: str, test: str | None = None, class_names: list[str] | None = None) -> None:
        self.files = {True: train, False: test or train}
        self.class_names = class_names or FashionMNIST.class_names

    def prepare(self) -> None:
        """Makes sure that the files are there."""
        for file in self.files.values():
            if not Path(file).is_file():
                raise UserError(f"{file}: there is no such file")

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads a part: images, uint8 (N, 1, 28, 28), and labels, int64 (N,)."""
        file = self.files[train]
        if file.endswith(".npz"):
            part = "train" if train else "test"
            with np.load(file) as saved:
                images, labels = saved[f"x_{part}"], saved[f"y_{part}"]
        else:
            table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.uint8)
            images, labels = table[:, 1:], table[:, 0]
        return torch.from_numpy(images).reshape(-1, 1, 28, 28), torch.from_numpy(labels.astype(np.int64))
