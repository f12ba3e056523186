"""Everything that matplotlib draws."""

from pathlib import Path
from typing import Any

from torch import Tensor

SAMPLES = 12  # images of each class in a picture


def draw_curves(rows: list[dict[str, float]], file: Any, format: str = "png") -> None:
    """Draws loss and accuracy over the epochs.

    Args:
        rows: One dictionary per epoch, with ``epoch`` and metrics such as ``val/loss``.
        file: A path or an open file.
        format: ``png`` or ``svg``.
    """
    from matplotlib.figure import Figure  # takes half a second, which only a training pays

    figure = Figure(figsize=(9, 3.5))
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.14, top=0.91)  # to find them would double the time
    for axes, metric, title in zip(figure.subplots(1, 2), ("loss", "acc"), ("loss", "accuracy"), strict=True):
        for stage, name in (("train", "training"), ("val", "validation")):
            points = [(row["epoch"], row[f"{stage}/{metric}"]) for row in rows if f"{stage}/{metric}" in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.set(xlabel="epoch", title=title)
        axes.locator_params(nbins=6)  # most of the time goes into ticks
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, format=format, dpi=100, transparent=format == "svg")


def draw_samples(images: Tensor, labels: Tensor, class_names: list[str], path: Path) -> None:
    """Draws the first images of every class, a class a row.

    Args:
        images: uint8 (N, 1, 28, 28).
        labels: int64 (N,).
        class_names: Name of each label.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.62 * len(class_names)), layout="constrained")
    rows = figure.subplots(len(class_names), 1, squeeze=False)[:, 0]
    for label, (axes, name) in enumerate(zip(rows, class_names, strict=True)):
        first = images[labels == label][:SAMPLES, 0]
        axes.imshow(first.transpose(0, 1).flatten(1).numpy(), cmap="gray_r", vmin=0, vmax=255)  # (28, 28 * SAMPLES)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight")


def draw_reliability(panels: dict[str, tuple[Tensor, Tensor]], file: Any, format: str = "png") -> None:
    """Draws how often predictions are right against how sure they are.

    Args:
        panels: By title, what ``reliability`` returns: the share of the samples in each bin, and their accuracy.
        file: A path or an open file.
        format: ``png`` or ``svg``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 4), layout="constrained")
    for axes, (title, (share, accuracy)) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        width = 1 / len(share)
        left = [number * width for number in range(len(share))]
        axes.bar(left, accuracy.tolist(), width, align="edge", edgecolor="white", label="accuracy")
        axes.bar(left, share.tolist(), width, align="edge", alpha=0.5, label="share of the images")
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfect")
        axes.set(xlabel="probability of the predicted class", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    figure.savefig(file, format=format, transparent=True)
