"""Where labelled images come from. ``data.source`` names one of these classes."""

from abc import ABC, abstractmethod

from torch import Tensor


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

    def paths(self, train: bool) -> list[str] | None:
        """Returns the file of each image that ``load`` gives, in the same order; None if they have none."""
        return None
