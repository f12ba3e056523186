"""What a test leaves behind: its figures as ``metrics.json`` and a page to look at, ``report.html``."""

import base64
import io
import shlex
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor, nn

from fmnist.evaluation.results import headline
from fmnist.evaluation.scores import reliability
from fmnist.files import atomic_path
from fmnist.plots import draw_curves, draw_reliability
from fmnist.runs.folder import run_folder
from fmnist.runs.tables import Metrics, read_history

MISTAKES = 24  # in the gallery
PAIRS = 10  # of classes that are confused most often


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
    loader = jinja2.PackageLoader("fmnist.evaluation", ".")
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
        reliability=_picture(draw_reliability, _panels(logits, labels, metrics["temperature"])),
        fit_command=shlex.join(["python", "-m", "fmnist", "fit", "--config", f"{run}/config.yaml"]) if run else None,
        test_command=shlex.join(["python", "-m", "fmnist", "test", "--ckpt_path", metrics["checkpoint"]]),
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")


def _panels(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, tuple[Tensor, Tensor]]:
    divisors = {"before calibration": 1.0, "after calibration": temperature}
    return {
        title: reliability(torch.softmax(logits.double() / divisor, 1), labels) for title, divisor in divisors.items()
    }


def _layers(network: nn.Module) -> list[tuple[str, str, int]]:
    """Lists the layers that hold parameters of their own or do something by themselves."""
    own = {
        name: (layer, [p.numel() for p in layer.parameters(recurse=False)]) for name, layer in network.named_modules()
    }
    return [
        (name, type(layer).__name__ if [*layer.children()] else str(layer), sum(sizes))
        for name, (layer, sizes) in own.items()
        if sizes or not [*layer.children()]
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
