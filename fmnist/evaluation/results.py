"""The figures of a test, for metrics.json and as lines on the screen."""

import hashlib
import platform
import statistics
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from fmnist import __version__
from fmnist.evaluation.scores import score_classes, wilson_interval
from fmnist.files import digest_file, read_text
from fmnist.runs.checkpoint import data_state
from fmnist.runs.folder import run_folder
from fmnist.runs.tables import Metrics, percent
from fmnist.text import display_width, pad


def measure(
    scores: dict[str, Tensor], logits: Tensor, labels: Tensor, class_names: list[str], temperature: float
) -> Metrics:
    """Returns the figures of ``metrics.json`` for labelled images.

    Args:
        scores: What ``score`` returned for them.
        logits: float (N, num_classes).
        labels: int64 (N,).
        class_names: Name of each class.
        temperature: Of the calibration; 1 for none.
    """
    classes = score_classes(logits.argmax(1), labels, len(class_names))
    count, columns = len(labels), ("precision", "recall", "f1", "support")
    return {
        **{name: value.item() for name, value in scores.items()},
        "acc_interval": wilson_interval(round(scores["acc"].item() * count), count),
        "temperature": temperature,
        "num_samples": count,
        "classes": [
            {"name": name, **{column: round(classes[column][label].item(), 7) for column in columns}}
            for label, name in enumerate(class_names)
        ],
        "confusion_matrix": classes["confusion_matrix"].tolist(),
    }


def origin(checkpoint_path: Path | None, checkpoint: dict[str, Any]) -> Metrics:
    """Returns where figures come from: date, checkpoint with its configuration and split, versions.

    Args:
        checkpoint_path: The checkpoint's file; None for a network that has not been saved.
        checkpoint: Its content, of which ``epoch`` and the record of the data are used.
    """
    run = run_folder(checkpoint_path) if checkpoint_path else None
    config = hashlib.sha256(read_text(run / "config.yaml").encode()).hexdigest()[:16] if run else None
    packages = ("torch", "lightning", "torchmetrics")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "checkpoint": str(checkpoint_path) if checkpoint_path else None,
        "epoch": checkpoint["epoch"] + 1,
        "digests": {
            "checkpoint": digest_file(checkpoint_path) if checkpoint_path else None,
            "config": config,
            "split": data_state(checkpoint).get("split"),
        },
        "versions": {"fmnist": __version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
    }


def summarize(members: list[Metrics]) -> Metrics:
    """Returns the figures of an ensemble's members with their mean and standard deviation.

    Args:
        members: Of each its ``checkpoint``, ``digest`` and ``epoch``, and what ``score`` returned, as numbers.

    Returns:
        ``members`` and, of every score, ``members_mean`` and the sample standard deviation ``members_std``.
    """
    scores = [name for name, value in members[0].items() if isinstance(value, float)]
    columns = {name: [member[name] for member in members] for name in scores}
    return {
        "members": members,
        "members_mean": {name: statistics.mean(values) for name, values in columns.items()},
        "members_std": {name: statistics.stdev(values) for name, values in columns.items()},
    }


def member_table(metrics: Metrics) -> list[str]:
    """Returns the figures of an ensemble's members, and their mean, as lines of a table."""
    members, mean, std = metrics["members"], metrics["members_mean"], metrics["members_std"]
    width = max(display_width(member["checkpoint"]) for member in members)
    spread = ", ".join(f"{name} {mean[name]:.4f} ± {std[name]:.4f}" for name in ("nll", "ece"))
    return [
        *(
            f"{pad(member['checkpoint'], width)}  acc {percent(member['acc'])}  nll {member['nll']:.4f}"
            f"  ece {member['ece']:.4f}"
            for member in members
        ),
        f"the {len(members)} members: acc {percent(mean['acc'])} ± {percent(std['acc'])}, {spread}",
        "their ensemble:",
    ]


def headline(metrics: Metrics) -> list[str]:
    """Returns the most important results in words, the accuracy first."""
    low, high = map(percent, metrics["acc_interval"])
    sure, most = (percent(metrics[f"coverage_at_{share}"]) for share in (99, 95))
    part = " only: a partial test" if metrics.get("partial") else ""
    loss, error = f"{metrics['nll']:.4f} after calibration", f"{metrics['ece_uncalibrated']:.4f} before calibration"
    if metrics["temperature"] == 1:
        loss = error = "not calibrated: there were no validation images"
    return [
        f"accuracy {percent(metrics['acc'])} (95% interval {low} to {high}) on {metrics['num_samples']:,} images{part}",
        f"answers {sure} of the images with 99% right, {most} with 95% right",
        f"top-2 accuracy {percent(metrics['top2_acc'])}",
        f"loss {metrics['loss']:.4f} ({loss})",
        f"Brier score {metrics['brier']:.4f}",
        f"calibration error {metrics['ece']:.4f} ({error}, temperature {metrics['temperature']:.3f})",
    ]


def class_table(metrics: Metrics) -> list[str]:
    """Returns precision, recall and F1 of every class as lines of a table."""
    width = max(map(display_width, ["class", *(row["name"] for row in metrics["classes"])]))
    lines = [f"{'class':{width}}  precision     recall         F1  support"]
    for row in metrics["classes"]:
        shares = "".join(f"{percent(row[column]):>11}" for column in ("precision", "recall", "f1"))
        lines.append(f"{pad(row['name'], width)}{shares}  {row['support']:7,}")
    return lines
