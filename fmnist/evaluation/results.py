"""What a test found: its figures as metrics.json, and as lines on the screen."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from fmnist import __version__
from fmnist.evaluation.scores import score, score_classes, wilson_interval
from fmnist.files import atomic_path, digest_file
from fmnist.runs.folder import run_folder

SCHEMA = 1
Metrics = dict[str, Any]


def measure(logits: Tensor, labels: Tensor, class_names: list[str], temperature: float) -> Metrics:
    """Turns what a network says of labelled images into the figures of ``metrics.json``.

    Args:
        logits: float (N, num_classes).
        labels: int64 (N,).
        class_names: Name of each class.
        temperature: Of the calibration; 1 for none.
    """
    scores = {name: value.item() for name, value in score(logits, labels, temperature).items()}
    classes = score_classes(logits.argmax(1), labels, len(class_names))
    count, correct = len(labels), int((logits.argmax(1) == labels).sum())
    columns = ("precision", "recall", "f1", "support")
    return {
        "schema": SCHEMA,
        "accuracy": correct / count,
        "accuracy_interval": wilson_interval(correct, count),
        "top2_accuracy": round(scores.pop("top2_acc") * count) / count,
        **{name: value for name, value in scores.items() if name != "acc"},
        "temperature": temperature,
        "num_samples": count,
        "classes": [
            {"name": name, **{column: round(classes[column][label].item(), 7) for column in columns}}
            for label, name in enumerate(class_names)
        ],
        "confusion_matrix": classes["confusion_matrix"].tolist(),
    }


def origin(checkpoint_path: Path, checkpoint: dict[str, Any]) -> Metrics:
    """Says where figures come from: the checkpoint, its configuration and split, the software."""
    run = run_folder(checkpoint_path)
    config = digest_file(run / "config.yaml")[:16] if run else None
    packages = ("torch", "lightning", "torchmetrics")
    return {
        "checkpoint": str(checkpoint_path),
        "epoch": checkpoint["epoch"] + 1,
        "digests": {
            "checkpoint": digest_file(checkpoint_path),
            "config": config,
            "split": checkpoint.get("FashionMNISTDataModule", {}).get("split"),
        },
        "versions": {"fmnist": __version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
    }


def headline(metrics: Metrics) -> list[str]:
    """Says the most important figures in three lines."""
    low, high = metrics["accuracy_interval"]
    calibration = f"temperature {metrics['temperature']:.3f}"
    if metrics["temperature"] == 1:
        calibration = "not calibrated: there were no validation images"
    return [
        f"accuracy {metrics['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"top-2 {metrics['top2_accuracy']:.2%}, {metrics['num_samples']:,} images",
        f"loss {metrics['loss']:.4f}, after calibration {metrics['nll']:.4f}; Brier score {metrics['brier']:.4f}",
        f"calibration error {metrics['ece']:.4f} ({metrics['ece_uncalibrated']:.4f} before; {calibration})",
    ]


def class_table(metrics: Metrics) -> list[str]:
    """Writes precision, recall and F1 of every class as lines of a table."""
    width = max(len(row["name"]) for row in metrics["classes"])
    return [
        f"{'class':{width}}  precision  recall      f1  support",
        *(
            f"{row['name']:{width}}  {row['precision']:9.4f}  {row['recall']:.4f}  {row['f1']:.4f}  {row['support']:7,}"
            for row in metrics["classes"]
        ),
    ]


def write_metrics(metrics: Metrics, path: Path) -> None:
    """Writes the figures as JSON."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
