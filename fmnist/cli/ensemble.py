"""The verb ``test`` for several checkpoints: their mean, and how good each is alone."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from fmnist.cli.screen import name_device, say
from fmnist.cli.start import Start
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.errors import check
from fmnist.evaluation.report import write_report
from fmnist.evaluation.results import class_table, headline, measure, member_table, origin, summarize
from fmnist.files import check_unused, digest_file, expand
from fmnist.model.calibration import fit_temperature
from fmnist.runs.folder import claim_ensemble
from fmnist.runs.tables import Metrics, write_metrics
from fmnist.training.classifier import ImageClassifier
from fmnist.training.metrics import Tested


def test_ensemble(
    start: Start, settings: Namespace, trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule
) -> None:
    """Evaluates the members and their mean, whose temperature is fitted on the validation images.

    Writes ``metrics.json`` and ``report.html`` into a folder of their own, and prints tables.
    """
    began, output = time.monotonic(), expand(settings.output) if settings.output else None
    if output:
        check_unused("--output", output)
    start.load_weights(model, trainer)
    ensemble: Any = model.network
    members = [*_test_members(start, trainer, model, data)]
    model.network = ensemble
    temperature = _calibrate(trainer, model, data)  # which moves the model to a device and back: its tensors are others
    model.temperature.fill_(temperature)
    logits, labels, scores = _test(trainer, model, datamodule=data)
    saved = start.checkpoint.get("FashionMNISTDataModule") or {}
    for line in dict.fromkeys(line for stage in ("test", "validate") for line in data.compare_split(saved, stage)):
        say(line)
    if not trainer.is_global_zero:
        return
    metrics: Metrics = {
        **measure(scores, logits, labels, model.hparams["class_names"], model.temperature.item()),
        **origin(None, start.checkpoint),
        "epoch": None,
        **summarize(members),
        "device": name_device(trainer),
        "seconds": round(time.monotonic() - began, 3),
    }
    fast: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
    written = [] if fast else _write(output or claim_ensemble(start.root), metrics, model, data)
    for line in (*class_table(metrics), "", *member_table(metrics), *headline(metrics), *written):
        say(line)


def _test(trainer: Trainer, model: ImageClassifier, **images: Any) -> Tested:
    """Returns what the network of the model, as it is now, says of images."""
    found = trainer.test(model, verbose=False, **images)
    check(len(found) == 1, "there is nothing to test: a limit of the trainer is 0")
    assert model.tested is not None
    return model.tested


def _test_members(
    start: Start, trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule
) -> Iterator[Metrics]:
    """Tests the members one by one, each with its own calibration."""
    ensemble: Any = model.network
    for (path, checkpoint), member in zip(start.members, ensemble.models, strict=True):
        model.network = member.network
        model.temperature.fill_(member.temperature)
        scores = _test(trainer, model, datamodule=data).scores
        known = {"checkpoint": str(path), "digest": digest_file(path), "epoch": checkpoint["epoch"] + 1}
        yield {**known, **{name: value.item() for name, value in scores.items()}}


def _calibrate(trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule) -> float:
    """Returns the temperature that fits the validation images; 1 if there are none."""
    data.setup("validate")
    model.temperature.fill_(1)
    if not data.val_set:
        return 1.0
    logits, labels, _ = _test(trainer, model, dataloaders=data.val_dataloader())
    return fit_temperature(logits, labels)


def _write(folder: Path, metrics: Metrics, model: ImageClassifier, data: FashionMNISTDataModule) -> list[str]:
    assert model.tested is not None
    assert data.test_set is not None
    folder.mkdir(parents=True, exist_ok=True)
    figures, report = folder / "metrics.json", folder / "report.html"
    write_metrics(metrics, figures)
    images, paths = data.test_set.images, data.source.paths(train=False)
    write_report(metrics, model.trained(), model.tested.logits, images, data.test_set.labels, report, paths=paths)
    return [f"written: {figures}", f"written: {report}"]
