"""The page of a test, ``report.html``."""

import base64
import inspect
import io
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor, nn

from fmnist.evaluation.scores import reliability, risk_coverage
from fmnist.files import write_whole
from fmnist.model.explain import occlude, paint
from fmnist.model.network import MLP_SETTINGS
from fmnist.model.trained import Output, TrainedModel
from fmnist.model.typicality import UNLIKE
from fmnist.plots import draw_curves, draw_reliability, draw_risk_coverage, draw_typicality, name_harder
from fmnist.runs.folder import run_folder
from fmnist.runs.settings import read_settings
from fmnist.runs.tables import Metrics, percent

GALLERY = 20  # images: full rows of 5, 4 or 2
PAIRS = 10  # of classes that are confused most often
OFF: tuple[Any, ...] = (None, False, 0, "none", [], {})  # values of settings that do nothing
TRAINER_SETTINGS = ("max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val", "callbacks")


def write_report(
    metrics: Metrics,
    model: TrainedModel,
    output: Output,
    images: Any,
    labels: Tensor,
    path: Path,
    hyper_parameters: Mapping[str, Any] | None = None,
    paths: list[str] | None = None,
    rows: list[dict[str, float]] | None = None,
) -> None:
    """Writes one page that needs nothing else: no network, no other file.

    Args:
        metrics: What ``measure`` and ``origin`` returned.
        model: What was tested.
        output: What it computed for the images.
        images: uint8 (N, C, H, W), or what has them by index.
        labels: int64 (N,).
        path: The HTML file to write.
        hyper_parameters: Of the checkpoint; they are shown with the settings of its run.
        paths: The file of each image, where they have files.
        rows: The epochs of the training, as ``read_history`` returns them.
    """
    run = run_folder(Path(metrics["checkpoint"] or ""))  # none for a network that was never saved
    settings = dict(_settings(hyper_parameters or {}, run))
    harder = name_harder({name.partition(".")[2]: value for name, value in settings.items()})
    write_page(
        path,
        "report.html.j2",
        metrics=metrics,
        date=datetime.fromisoformat(metrics["date"]).strftime("%Y-%m-%d %H:%M (UTC%z)"),
        settings={name: _as_text(value) for name, value in settings.items()},
        pairs=_confused_pairs(metrics),
        mistakes=_mistakes(metrics, model, output.probabilities, images, labels, paths),
        typicality=_typicality(metrics, output.typicality, images, labels, paths),
        layers=_layers(model.network),
        curves=_picture(draw_curves, rows, format="svg", harder=harder) if rows else None,
        risk=_picture(draw_risk_coverage, *risk_coverage(output.probabilities, labels)[:2]),
        reliability=_picture(draw_reliability, _panels(output, labels, metrics["temperature"])),
        commands=[*_commands([one["checkpoint"] for one in metrics.get("members", [metrics])], run)],
    )


def _commands(checkpoints: list[str | None], run: Path | None) -> Iterator[str]:
    if run:
        yield shlex.join(["fmnist", "fit", "--config", f"{run}/config.yaml"])
    if known := [*filter(None, checkpoints)]:
        yield shlex.join(["fmnist", "test", "--ckpt_path", *known])


def write_page(path: Path, template: str, **what: Any) -> None:
    """Fills in a template of this folder, and writes the page."""
    loader = jinja2.PackageLoader("fmnist.evaluation", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals.update(percent=percent)
    page = environment.get_template(template).render(**what)
    write_whole(path, page)


def _panels(output: Output, labels: Tensor, temperature: float) -> dict[str, tuple[Tensor, Tensor]]:
    after = reliability(output.probabilities, labels)
    if temperature == 1:
        return {"not calibrated": after}
    before = reliability(torch.softmax(output.logits.float(), 1), labels)
    return {"before calibration": before, "after calibration": after}


def _settings(hyper_parameters: Mapping[str, Any], run: Path | None) -> Iterator[tuple[str, Any]]:
    """Yields the settings that have an effect, as options: those of the run, then those of the network."""
    saved: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # the page is as good without
        saved = read_settings(run / "config.yaml") if run else {}
    trainer, data = (part if isinstance(part, dict) else {} for part in (saved.get("trainer"), saved.get("data")))
    found = {
        "seed_everything": saved.get("seed_everything"),
        **{f"trainer.{name}": trainer.get(name) for name in TRAINER_SETTINGS},
        **{f"data.{name}": value for name, value in data.items()},
        **{f"model.{name}": hyper_parameters[name] for name in hyper_parameters if name[0] != "_"},
    }
    if hyper_parameters.get("network"):
        found |= {f"model.{name}": None for name in MLP_SETTINGS}
    for name, value in found.items():
        seed = name in ("seed_everything", "data.split_seed") and value is not None  # 0 is one, too
        if (seed or value not in OFF) and name != "model.class_names":
            yield name, value


def _as_text(value: Any) -> str:
    """Returns a setting as a line: of a class its name and its arguments."""
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    given = (value.get("init_args") or {}) if isinstance(value, dict) and "class_path" in value else None
    if isinstance(given, dict):
        name = str(value["class_path"]).rpartition(".")[2]
        return f"{name}({', '.join(f'{key}={_as_text(given[key])}' for key in given if given[key] not in OFF)})"
    return str(value)


def _layers(network: nn.Module) -> list[tuple[str, str, int]]:
    """Returns name, text and number of parameters of the layers that have parameters or no layers inside."""
    found = []
    for name, layer in network.named_modules():
        sizes, inner = [one.numel() for one in layer.parameters(recurse=False)], [*layer.children()]
        if sizes or not inner:
            found.append((name, type(layer).__name__ if inner else _layer_text(layer), sum(sizes)))
    return found


def _layer_text(layer: nn.Module) -> str:
    """Returns a layer without names that it must be given and settings that are the defaults: ``BatchNorm1d(512)``."""
    settings = inspect.signature(type(layer)).parameters.values()
    defaults = [f"{one.name}={one.default}" for one in settings]
    shown = [part for part in layer.extra_repr().split(", ") if part not in defaults]
    for one in settings:
        if one.default is one.empty:
            shown = [part.removeprefix(f"{one.name}=") for part in shown]
    return f"{type(layer).__name__}({', '.join(shown)})"


def _confused_pairs(metrics: Metrics) -> list[dict[str, Any]]:
    names = [row["name"] for row in metrics["classes"]]
    pairs = [
        {"actual": names[actual], "predicted": names[predicted], "count": count, "share": count / sum(row)}
        for actual, row in enumerate(metrics["confusion_matrix"])
        for predicted, count in enumerate(row)
        if count and actual != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:PAIRS]


def _mistakes(
    metrics: Metrics, model: TrainedModel, known: Tensor, images: Any, labels: Tensor, paths: list[str] | None
) -> list[dict[str, Any]]:
    names = [row["name"] for row in metrics["classes"]]
    confidence, predicted = known.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:GALLERY].tolist()
    return [
        {
            "name": paths[index] if paths else f"test image {index}",
            "picture": embed(images[index]),
            "why": embed_pixels(
                paint(images[index], occlude(model, images[index], int(predicted[index]), float(confidence[index])))
            ),
            "predicted": names[predicted[index]],
            "actual": names[labels[index]],
            "probability": confidence[index].item(),
        }
        for index in worst
    ]


def _typicality(
    metrics: Metrics, shares: Tensor | None, images: Any, labels: Tensor, paths: list[str] | None
) -> dict[str, Any] | None:
    if shares is None:
        return None
    least = shares.argsort(stable=True)[:GALLERY].tolist()
    return {
        "unlike": (shares < UNLIKE).float().mean().item(),
        "chart": _picture(draw_typicality, shares),
        "least": [
            {
                "name": paths[index] if paths else f"test image {index}",
                "picture": embed(images[index]),
                "actual": metrics["classes"][labels[index]]["name"],
            }
            for index in least
        ],
    }


def embed(image: Tensor) -> str:
    """Returns an image, uint8 (C, H, W), as a data URI."""
    return embed_pixels(image.movedim(0, -1).squeeze(-1))


def embed_pixels(pixels: Tensor) -> str:
    """Returns pixels, uint8 (H, W), or (H, W, 3) in colour, as a data URI."""
    content = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(content, format="PNG")
    return _data_uri(content.getvalue(), "png")


def _picture(draw: Any, *what: Any, **options: Any) -> str:
    content = io.BytesIO()
    draw(*what, content, **options)
    return _data_uri(content.getvalue(), "svg+xml")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
