"""What a test leaves behind: its figures as ``metrics.json`` and a page to look at, ``report.html``."""

import base64
import io
import json
import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor, nn

from fmnist import __version__
from fmnist.files import atomic_path, digest_file
from fmnist.metrics import score, score_classes, wilson_interval
from fmnist.plots import draw_curves, draw_reliability
from fmnist.runs.folder import run_folder
from fmnist.runs.tables import read_history

SCHEMA = 1
MISTAKES = 24  # in the gallery
PAIRS = 10  # of classes that are confused most often

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


def write_report(
    metrics: Metrics, network: nn.Module, logits: Tensor, images: Tensor, labels: Tensor, path: Path
) -> None:
    """Writes one page that needs nothing else: no network, no other file.

    Args:
        metrics: What ``measure`` and ``origin`` returned.
        network: The network that was tested.
        logits: float (N, num_classes).
        images: uint8 (N, 1, 28, 28).
        labels: int64 (N,).
        path: The HTML file to write.
    """
    loader = jinja2.PackageLoader("fmnist", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    run = run_folder(Path(metrics["checkpoint"]))
    rows = read_history(run) if run else []
    page = environment.get_template("report.html.j2").render(
        metrics=metrics,
        headline=headline(metrics),
        pairs=_confused_pairs(metrics),
        mistakes=_mistakes(metrics, logits, images, labels),
        layers=_layers(network),
        curves=_picture(draw_curves, rows) if rows else None,
        reliability=_picture(draw_reliability, logits, labels, metrics["temperature"]),
        fit_command=shlex.join(["python", "-m", "fmnist", "fit", "--config", f"{run}/config.yaml"]) if run else None,
        test_command=shlex.join(["python", "-m", "fmnist", "test", "--ckpt_path", metrics["checkpoint"]]),
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")


def _layers(network: nn.Module) -> list[tuple[str, str, int]]:
    return [
        (name, str(layer), sum(parameter.numel() for parameter in layer.parameters()))
        for name, layer in network.named_children()
    ]


def _confused_pairs(metrics: Metrics) -> list[dict[str, Any]]:
    names = [row["name"] for row in metrics["classes"]]
    pairs = [
        {"actual": names[actual], "predicted": names[predicted], "count": count, "share": count / sum(row)}
        for actual, row in enumerate(metrics["confusion_matrix"])
        for predicted, count in enumerate(row)
        if count and actual != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:PAIRS]


def _mistakes(metrics: Metrics, logits: Tensor, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    names = [row["name"] for row in metrics["classes"]]
    confidence, predicted = torch.softmax(logits.double() / metrics["temperature"], 1).max(1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES].tolist()
    return [
        {
            "index": index,
            "picture": _data_uri(_png(images[index, 0]), "png"),
            "predicted": names[predicted[index]],
            "actual": names[labels[index]],
            "probability": confidence[index].item(),
        }
        for index in worst
    ]


def _png(image: Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image.numpy()).save(content, format="PNG")
    return content.getvalue()


def _picture(draw: Any, *what: Any) -> str:
    content = io.BytesIO()
    draw(*what, content, "svg")
    return _data_uri(content.getvalue(), "svg+xml")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
