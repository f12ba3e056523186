"""The report of a test that was made in Python, such as in a notebook."""

from pathlib import Path

from lightning.pytorch import Trainer

from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.errors import check
from fmnist.evaluation.report import write_report
from fmnist.evaluation.results import measure, origin
from fmnist.runs.tables import Metrics
from fmnist.training.classifier import ImageClassifier
from fmnist.training.history import History


def report(trainer: Trainer, path: str | Path = "report.html") -> Metrics:
    """Writes the page that ``test`` writes, of what ``trainer.test(model, data)`` has just measured.

    Args:
        trainer: The trainer; if it has a ``History``, the page shows the course of its training as well.
        path: The HTML file to write.

    Returns:
        The figures, under the names that ``test/metrics.json`` has.

    Raises:
        UserError: Nothing has been tested.
    """
    model, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    ours = isinstance(model, ImageClassifier) and isinstance(data, FashionMNISTDataModule)
    check(ours and model.evaluated is not None, "nothing has been tested: trainer.test(model, data) comes first")
    assert isinstance(model, ImageClassifier)
    assert model.evaluated is not None
    output, labels, scores = model.evaluated
    metrics: Metrics = {
        **measure(scores, output.logits, labels, model.class_names, model.temperature.item()),
        **({"partial": True} if len(labels) < len(data.test_set) else {}),
        **origin(None, {"epoch": trainer.current_epoch - 1, "FashionMNISTDataModule": {"split": data.split_digest}}),
        "device": trainer.strategy.root_device.type,
    }
    rows = next((callback.rows for callback in trainer.callbacks if isinstance(callback, History)), [])  # type: ignore[attr-defined]
    images, files = data.test_set.images[: len(labels)], data.source.paths(train=False)
    write_report(metrics, model.models[0], output, images, labels, Path(path), model.hparams, files, rows)
    return metrics
