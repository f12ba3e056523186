"""Which labels of a data set look wrong, by networks that have not seen them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fmnist.evaluation.report import embed, write_page

Row = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """Labelled images, and what networks that were not trained on them say.

    The less probable the given label, the likelier it is wrong: the score that is called self-confidence, of
    Northcutt, Jiang, Chuang 2021, https://arxiv.org/abs/1911.00068.

    Args:
        images: uint8 (N, 1, 28, 28).
        labels: The given ones, int64 (N,).
        probabilities: float (N, num_classes).
        class_names: Name of each class.
        paths: The file of each image, where they have files of their own.
    """

    images: Tensor
    labels: Tensor
    probabilities: Tensor
    class_names: list[str]
    paths: list[str] | None = None

    def rows(self) -> Iterator[Row]:
        """Yields a row per image, the least probable label first."""
        given = self.probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        highest, predicted = self.probabilities.max(1)
        order = given.argsort(stable=True)
        columns = (column[order].tolist() for column in (self.labels, predicted, given, highest))
        for index, label, best, low, high in zip(order.tolist(), *columns, strict=True):
            yield {
                "index": index,
                **({"path": self.paths[index]} if self.paths else {}),
                "given": self.class_names[label],
                "predicted": self.class_names[best],
                "p(given)": float(f"{low:.6g}"),
                "p(predicted)": float(f"{high:.6g}"),
            }


def name_image(row: Row) -> str:
    """Returns the file of an image, else its number."""
    return row.get("path") or f"training image {row['index']}"


def write_labels(judged: Judged, rows: list[Row], heading: str, lines: list[str], path: Path) -> None:
    """Writes a page that needs nothing else: images with their given and their predicted class.

    Args:
        judged: What the rows come from.
        rows: The images to draw.
        heading: Its title.
        lines: What is said above them.
        path: The HTML file to write.
    """
    drawn = [(name_image(row), embed(judged.images[row["index"]]), row) for row in rows]
    write_page(path, "labels.html.j2", heading=heading, lines=lines, drawn=drawn)
