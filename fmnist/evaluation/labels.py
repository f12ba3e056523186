"""Labels of a data set that look wrong, by networks that were not trained on them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fmnist.evaluation.report import embed, write_page

Row = dict[str, Any]


def rank_labels(
    labels: Tensor, probabilities: Tensor, class_names: list[str], paths: list[str] | None = None
) -> list[Row]:
    """Returns a row per image, the least probable label first.

    The less probable the given label, the likelier it is wrong: the self-confidence of Northcutt, Jiang, Chuang 2021,
    https://arxiv.org/abs/1911.00068.

    Args:
        labels: The given labels, int64 (N,).
        probabilities: Of networks that were not trained on the images, float (N, num_classes).
        class_names: Name of each class.
        paths: The file of each image, if it has one.
    """
    given = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    highest, predicted = probabilities.max(1)
    order = given.argsort(stable=True)
    columns = (column[order].tolist() for column in (labels, predicted, given, highest))
    return [
        {
            "index": index,
            **({"path": paths[index]} if paths else {}),
            "given": class_names[label],
            "predicted": class_names[best],
            "p(given)": float(f"{low:.6g}"),
            "p(predicted)": float(f"{high:.6g}"),
        }
        for index, label, best, low, high in zip(order.tolist(), *columns, strict=True)
    ]


def name_image(row: Row) -> str:
    """Returns the file of an image, or its number."""
    return row.get("path") or f"training image {row['index']}"


def write_labels(path: Path, heading: str, lines: list[str], rows: list[Row], images: Any) -> None:
    """Writes a page that needs no other file: images with their given and their predicted class.

    Args:
        path: The HTML file to write.
        heading: Its title.
        lines: Text above the images.
        rows: The images to draw.
        images: All images, uint8 (N, channels, height, width), or what has them by index.
    """
    drawn = [(name_image(row), embed(images[row["index"]]), row) for row in rows]
    write_page(path, "labels.html.j2", heading=heading, lines=lines, drawn=drawn)
