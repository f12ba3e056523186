"""The verbs ``validate`` and ``test``."""

import argparse
import time
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from fmnist.cli.ensemble import test_ensemble
from fmnist.cli.screen import name_device, say
from fmnist.cli.start import Start
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.errors import check
from fmnist.evaluation.report import write_report
from fmnist.evaluation.results import class_table, headline, measure, origin
from fmnist.runs.folder import check_own, results_folder, run_folder
from fmnist.runs.tables import Metrics, percent, read_history, write_metrics
from fmnist.training.classifier import ImageClassifier

VALIDATE_EXAMPLE = "fmnist validate --ckpt_path last"
TEST_EXAMPLE = "fmnist test --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``test`` has beside the options of the Trainer."""
    output = "Folder for the results of an ensemble; lightning_logs/ensemble_N if not given."
    parser.add_argument("--output", type=str, metavar="DIR", help=output)


def validate(
    start: Start, settings: Namespace, trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule
) -> None:
    """Evaluates on the validation images and prints a table."""
    check(data.is_validated, "data.val_size is 0, so nothing is left to validate on: give --data.val_size")
    for name, value in sorted(_evaluate(start, trainer, model, data).items()):
        say(f"  {name:16}{percent(value) if name.endswith('acc') else f'{value:.4f}':>10}")


def test(
    start: Start, settings: Namespace, trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule
) -> None:
    """Evaluates on the test images; writes ``test/metrics.json`` and ``test/report.html``, and prints tables."""
    if start.others:
        test_ensemble(start, settings, trainer, model, data)
        return
    check(not settings.output, "--output is for an ensemble: the results of one checkpoint go into its run")
    folder = results_folder(start.path)
    check_own(run_folder(start.path) or folder)
    rows = read_history(folder.parent)  # what is wrong with it must not come out after the test
    began = time.monotonic()
    _evaluate(start, trainer, model, data)
    if not trainer.is_global_zero:
        return
    assert model.tested is not None
    logits, labels, scores = model.tested
    metrics: Metrics = {
        **measure(scores, logits, labels, model.hparams["class_names"], model.temperature.item()),
        **origin(start.path, start.checkpoint),
        "device": name_device(trainer),
        "seconds": round(time.monotonic() - began, 3),
    }
    written = [] if trainer.fast_dev_run else _write(start, metrics, rows, model, data)  # type: ignore[attr-defined]
    for line in (*class_table(metrics), "", *headline(metrics), *written):
        say(line)


def _evaluate(start: Start, trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule) -> dict[str, float]:
    start.load_weights(model, trainer)
    found: list[dict[str, Any]] = getattr(trainer, start.command)(model, datamodule=data, verbose=False)
    check(len(found) == 1, f"there is nothing to {start.command}: a limit of the trainer is 0")
    for line in data.compare_split(start.checkpoint.get("FashionMNISTDataModule") or {}, start.command):
        say(line)
    return found[0]


def _write(
    start: Start, metrics: Metrics, rows: list[dict[str, float]], model: ImageClassifier, data: FashionMNISTDataModule
) -> list[str]:
    """Writes the results before anything is printed: whoever reads the screen may leave early, as ``head`` does."""
    assert model.tested is not None
    assert data.test_set is not None
    folder = results_folder(start.path)
    folder.mkdir(exist_ok=True)
    figures, report = folder / "metrics.json", folder / "report.html"
    report.unlink(missing_ok=True)  # that of another test
    write_metrics(metrics, figures)
    images, labels = data.test_set.images, data.test_set.labels
    settings, paths = start.checkpoint["hyper_parameters"], data.source.paths(train=False)
    write_report(metrics, model.trained(), model.tested.logits, images, labels, report, settings, paths, rows)
    return [f"written: {figures}", f"written: {report}"]
