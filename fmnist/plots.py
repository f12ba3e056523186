"""Everything that matplotlib draws."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 1e100  # of a figure that is drawn: with more, and with what is not finite, matplotlib fails
SAMPLES = 12  # images of each class in a picture
HARDER = ("mixup", "label_smoothing", "dropout", "flip", "shift")  # settings that only training images meet
# Fonts of names, the first that has a letter: matplotlib's own, then those of systems for Chinese, Japanese and Korean
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC"]


def name_harder(settings: Mapping[str, Any]) -> str:
    """Returns the settings that make training figures look worse than validation, such as ``mixup, shift``."""
    return ", ".join(name.replace("_", " ") for name in HARDER if settings.get(name))


def draw_curves(rows: list[dict[str, float]], file: Any, format: str = "png", harder: str = "") -> None:
    """Draws loss and accuracy over the epochs, the learning rate, and the epoch that is kept as the best.

    Args:
        rows: One dictionary per epoch, with ``epoch`` and metrics such as ``val/loss``.
        file: A path or an open file.
        format: ``png`` or ``svg``.
        harder: What ``name_harder`` returned for the run; a line below the curves explains it.
    """
    from matplotlib.figure import Figure  # takes half a second, which only training pays

    rows = [{name: value for name, value in row.items() if abs(value) < LARGEST} for row in rows]
    scored = (row for row in rows if "val/acc" in row)
    kept = max(scored, key=lambda row: (row["val/acc"], -row.get("val/loss", 0)), default=rows[-1])["epoch"]
    figure = Figure(figsize=(9, 3.5))
    # to find these margins would double the time
    figure.subplots_adjust(left=0.06, right=0.92, bottom=0.19, top=0.91, wspace=0.36)
    for axes, metric, title in zip(figure.subplots(1, 2), ("loss", "acc"), ("loss", "accuracy"), strict=True):
        axes.set(xlabel="epoch", title=title, xlim=(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5))
        for stage, name in (("train", "training"), ("val", "validation")):
            if points := _points(rows, f"{stage}/{metric}"):
                axes.plot(*zip(*points, strict=True), marker="o", markersize=2.5, linewidth=1.2, label=name)
        if len(rows) == 1 and abs(axes.dataLim.y1) < LARGEST:  # zooming in would make a course of a small difference
            axes.set(ylim=(0, 1 if metric == "acc" else 1.5 * axes.dataLim.y1))
        axes.locator_params(nbins=6)  # most of the time goes into ticks
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        _label_ends(axes)
        axes.axvline(kept, color="tab:green", linestyle="--", linewidth=1, zorder=0)
        if metric == "loss":
            _add_learning_rate(axes, _points(rows, "lr"))
        else:
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
            label = {"s": f" kept: epoch {kept:.0f} ", "ha": "right" if kept > len(rows) / 2 else "left"}
            axes.text(kept, 0.03, **label, color="tab:green", fontsize=9, transform=axes.get_xaxis_transform())
    if harder:
        explained = f"Training is measured with {harder}, validation without: training can look worse than it is."
        figure.text(0.06, 0.02, explained, color="gray", fontsize=8)
    figure.savefig(file, format=format, dpi=100, transparent=format == "svg")


def _points(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[name]) for row in rows if name in row]


def _label_ends(axes: Any) -> None:
    """Writes the name of each line next to its end, in its colour; two that would overlap are moved apart."""
    low, high = axes.get_ylim()
    lines = sorted(axes.get_lines(), key=lambda line: line.get_ydata()[-1])
    heights = [(line.get_ydata()[-1] - low) / (high - low) for line in lines]
    if len(heights) == 2 and (overlap := 0.07 - heights[1] + heights[0]) > 0:
        heights = [heights[0] - overlap / 2, heights[1] + overlap / 2]
    for line, height in zip(lines, heights, strict=True):
        style = {"color": line.get_color(), "fontsize": 9, "va": "center"}
        axes.text(1.02, height, line.get_label(), transform=axes.transAxes, **style)


def _add_learning_rate(axes: Any, points: list[tuple[float, float]]) -> None:
    """Draws the learning rate as a thin grey line from 0 to its maximum, if it changes."""
    rates = [rate for _, rate in points]
    if len({*rates}) < 2:
        return
    twin, most = axes.twinx(), max(rates)
    twin.plot(*zip(*points, strict=True), color="gray", linewidth=0.8, alpha=0.7)
    twin.set(ylim=(0, 1.1 * most), yticks=[], frame_on=False)
    falling = next((point for point in points[rates.index(most) :] if point[1] < 0.9 * most), points[-1])
    twin.annotate(
        f"learning rate, up to {most:.3g}", falling, (6, 2), textcoords="offset points", color="gray", fontsize=8
    )


def draw_samples(images: Any, labels: Tensor, class_names: list[str], path: Path) -> bool:
    """Draws the first images of every class, a class a row, as the network sees them: light on black.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        class_names: Name of each label.
        path: The PNG file to write.

    Returns:
        Whether all letters of the names could be drawn; those that none of the ``FONTS`` has become boxes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.62 * len(class_names)), layout="constrained")
    rows = figure.subplots(len(class_names), 1, squeeze=False)[:, 0]
    for label, (axes, name) in enumerate(zip(rows, class_names, strict=True)):
        first = F.pad(images[(labels == label).nonzero().flatten()[:SAMPLES]], (0, 1), value=255)  # a white line
        drawn = first.permute(2, 0, 3, 1).flatten(1, 2)[:, :-1]  # (H, (W + 1) * SAMPLES - 1, C)
        axes.imshow(drawn.squeeze(2).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", family=FONTS, parse_math=False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # no machine has all of them
    with warnings.catch_warnings(record=True) as missing:
        warnings.simplefilter("always")
        figure.savefig(path, format="png", dpi=120, bbox_inches="tight")
    return not missing


def draw_reliability(panels: dict[str, tuple[Tensor, Tensor]], file: Any) -> None:
    """Draws how often predictions are right against how sure they are.

    Args:
        panels: By title, what ``reliability`` returns: the share of the samples in each bin, and their accuracy.
        file: An open file, for SVG.
    """
    from matplotlib.figure import Figure

    width = 4.5 * len(panels)
    figure = Figure(figsize=(width, 4))
    figure.subplots_adjust(left=0.45 / width, right=1 - 0.15 / width, bottom=0.13, top=0.92, wspace=0.07)
    for axes, (title, (share, accuracy)) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        edges = [number / len(share) for number in range(len(share) + 1)]
        axes.stairs(accuracy.tolist(), edges, fill=True, color="tab:blue", alpha=0.5, label="accuracy")
        axes.stairs(share.tolist(), edges, color="tab:orange", linewidth=2, label="share of the images")
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfect")
        axes.set(xlabel="probability of the predicted class", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    figure.savefig(file, format="svg", transparent=True)


def draw_risk_coverage(coverage: Tensor, risk: Tensor, file: Any) -> None:
    """Draws the share of wrong answers against the share of the images that are answered, the most confident first.

    Args:
        coverage: Of ``risk_coverage``, float (N,).
        risk: Of ``risk_coverage``, float (N,).
        file: An open file, for SVG.
    """
    from matplotlib.figure import Figure

    some = torch.linspace(0, len(risk) - 1, min(len(risk), 500)).long()  # as many as can be seen
    figure = Figure(figsize=(4.5, 3))
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.17, top=0.96)
    axes = figure.subplots()
    axes.plot((100 * coverage[some]).tolist(), (100 * risk[some]).tolist())
    for wrong in (5, 1):
        axes.axhline(wrong, color="gray", linestyle="--", linewidth=1)
        axes.annotate(f"{100 - wrong}% right", (1, wrong), (0, 2), textcoords="offset points", color="gray", fontsize=8)
    axes.set(
        xlabel="% of the images answered, the most confident first", ylabel="% of the answers wrong", xlim=(0, 100)
    )
    axes.set(ylim=(0, max(6, 105 * risk.max().item())))
    figure.savefig(file, format="svg", transparent=True)


def draw_typicality(shares: Tensor, file: Any) -> None:
    """Draws how many images have which typicality; those of the validation images would be even.

    Args:
        shares: Typicality of each image, from 0 to 1, float (N,).
        file: An open file, for SVG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3))
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.17, top=0.96)
    axes = figure.subplots()
    axes.hist(100 * shares.numpy(), bins=25, range=(0, 100), weights=[100 / len(shares)] * len(shares))
    axes.axhline(4, color="gray", linestyle="--", linewidth=1, label="validation images")
    axes.set(xlabel="typicality (% of the validation images are less typical)", ylabel="% of the test images")
    axes.set(ylim=(0, 1.2 * axes.get_ylim()[1]))  # room for the legend
    axes.legend()
    figure.savefig(file, format="svg", dpi=100, transparent=True)
