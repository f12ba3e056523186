"""The commands ``validate`` and ``test``, and ``predict`` for the test images."""

import argparse
import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from fmnist.cli.console import name_device, say
from fmnist.cli.predict import check_output_option, print_written
from fmnist.cli.resolve import Start
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.data.problems import find_problems
from fmnist.errors import UserError, check
from fmnist.evaluation.results import class_table, headline, measure, member_table, origin, summarize
from fmnist.evaluation.scores import score
from fmnist.files import check_unused, digest_file, expand, read_json
from fmnist.inference.predictions import label_rows, make_rows, write_rows
from fmnist.model.calibration import fit_temperature
from fmnist.runs.checkpoint import data_state, load_members
from fmnist.runs.folder import check_links, claim_ensemble, results_folder, run_folder
from fmnist.runs.tables import Metrics, percent, read_history, write_metrics
from fmnist.training.evaluation import Evaluated, Evaluator

VALIDATE_EXAMPLE = "fmnist validate --ckpt_path last"
TEST_EXAMPLE = "fmnist test --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``test`` that the Trainer does not have."""
    output = "Folder for the results; that of the run, or lightning_logs/ensemble_N, if not given."
    parser.add_argument("--output", type=str, metavar="DIR", help=output)


def validate(start: Start, settings: Namespace, trainer: Trainer, data: FashionMNISTDataModule) -> None:
    """Evaluates on the validation images."""
    check(data.is_validated, "data.val_size is 0, so nothing is left to validate on: give --data.val_size")
    scores = _evaluate("validate", trainer, _load(start, trainer), data).scores
    _print_leakage(start, data, "validate")
    say(f"accuracy {percent(scores['acc'].item())} on {len(data.val_set or ()):,} validation images")
    say(f"loss {scores['loss'].item():.4f}")
    say(f"calibration error {scores['ece'].item():.4f}")


def test(start: Start, settings: Namespace, trainer: Trainer, data: FashionMNISTDataModule) -> None:
    """Evaluates a model, or an ensemble and its members, on the test images.

    Writes ``metrics.json`` and ``report.html``, and prints tables.
    """
    output = expand(settings.output) if settings.output else None
    rows = []
    if output:
        check_unused("--output", output)
    if not start.others:
        folder = results_folder(start.path)
        if not output:
            check_links(run_folder(start.path) or folder)
        rows = read_history(folder.parent)  # what is wrong with it must not come out after the test
    began = time.monotonic()
    evaluator = _load(start, trainer)
    if start.others and data.is_validated:
        known, labels, _ = _evaluate("validate", trainer, evaluator, data)
        evaluator.models[0].temperature.fill_(fit_temperature(known.logits, labels))
    found = _evaluate("test", trainer, evaluator, data)
    _print_leakage(start, data, "test", *["validate"] * bool(start.others))
    if not trainer.is_global_zero:
        return
    measured = {"device": name_device(trainer), "seconds": round(time.monotonic() - began, 3)}
    metrics = {**_measure(start, evaluator, found, data), **measured}
    error = None
    written: list[str] = []
    try:  # before anything is printed: whoever reads the screen may leave early, as ``head`` does
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = output or (claim_ensemble(start.given.root) if start.others else results_folder(start.path))
            written = _write(folder, metrics, evaluator, found, data, start, rows)
    except OSError as failure:
        error = failure
    members = member_table(metrics) if start.others else []
    for line in (*members, *headline(metrics), "", *class_table(metrics), "", *written):
        say(line)
    if error:
        raise error


def predict(start: Start, settings: Namespace, trainer: Trainer, data: FashionMNISTDataModule) -> None:
    """Classifies the test images: all into a file, or one on the screen."""
    for option in ("save_converted", "explain"):
        check(not getattr(settings, option), f"--{option} needs --images")
    check(settings.images is None, "images: pictures are named on the command line, with --images")
    if settings.index is not None:
        check(settings.output is None, "--index prints the prediction for one test image: leave out --output")
        _predict_one(settings.index, _load(start, trainer), data)
        return
    output = check_output_option(settings)
    found = _evaluate("predict", trainer, _load(start, trainer), data)
    if trainer.is_global_zero:
        write_rows(label_rows(found.output, found.labels, data.class_names, data.source.paths(train=False)), output)
        print_written(output, len(found.labels))


def _load(start: Start, trainer: Trainer) -> Evaluator:
    """Builds the model of the checkpoint, or the ensemble, on the device of the trainer."""
    model = load_members(start.members, start.network, trainer.precision_plugin.convert_module)
    start.announce(name_device(trainer))
    return Evaluator(model.to(trainer.strategy.root_device))


def _evaluate(stage: str, trainer: Trainer, evaluator: Evaluator, data: FashionMNISTDataModule) -> Evaluated:
    options = {"return_predictions": False} if stage == "predict" else {"verbose": False}
    getattr(trainer, stage)(evaluator, datamodule=data, **options)
    if (found := evaluator.evaluated) is None:
        raise UserError(f"there is nothing to {stage}: a limit of the trainer is 0")
    return found


def _print_leakage(start: Start, data: FashionMNISTDataModule, *stages: str) -> None:
    saved = data_state(start.checkpoint)
    for line in dict.fromkeys(line for stage in stages for line in find_problems(data, saved, stage)):
        say(line)


def _measure(start: Start, evaluator: Evaluator, found: Evaluated, data: FashionMNISTDataModule) -> Metrics:
    assert data.test_set is not None
    temperature = evaluator.models[0].temperature.item()
    return {
        **measure(found.scores, found.output.logits, found.labels, evaluator.class_names, temperature),
        **origin(None if start.others else start.path, start.checkpoint),
        **({"epoch": None, **summarize(_score_members(start, evaluator, found))} if start.others else {}),
        **({"partial": True} if len(found.labels) < len(data.test_set) else {}),
    }


def _score_members(start: Start, evaluator: Evaluator, found: Evaluated) -> list[Metrics]:
    """Returns the figures of the members of an ensemble, each with its own calibration."""
    ensemble: Any = evaluator.models[0]
    assert found.output.members is not None
    members = zip(start.members, ensemble.network, found.output.members.unbind(1), strict=True)
    return [
        {
            "checkpoint": str(path),
            "digest": digest_file(path),
            "epoch": checkpoint["epoch"] + 1,
            **{name: value.item() for name, value in score(logits, found.labels, member.temperature.item()).items()},
        }
        for (path, checkpoint), member, logits in members
    ]


def _write(
    folder: Path,
    metrics: Metrics,
    evaluator: Evaluator,
    found: Evaluated,
    data: FashionMNISTDataModule,
    start: Start,
    rows: list[dict[str, float]],
) -> list[str]:
    """Writes the results, if they do not replace those of a whole test; returns the lines to print."""
    from fmnist.evaluation.report import write_report  # `fit` imports this file, and needs no templates

    figures, report = folder / "metrics.json", folder / "report.html"
    if metrics.get("partial") and figures.exists() and not _is_partial(figures):
        return [f"note: results not written: {folder} already has those of a complete test"]
    assert data.test_set is not None
    folder.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)  # that of another test
    write_metrics(metrics, figures)
    images, paths = data.test_set.images, data.source.paths(train=False)
    settings = {} if start.others else start.checkpoint["hyper_parameters"]
    write_report(metrics, evaluator.models[0], found.output, images, found.labels, report, settings, paths, rows)
    return [f"written: {figures}", f"report: {report}"]


def _is_partial(path: Path) -> bool:
    try:
        return bool(read_json(path).get("partial"))
    except ValueError:  # damaged
        return False


def _predict_one(index: int, evaluator: Evaluator, data: FashionMNISTDataModule) -> None:
    data.prepare_data()
    data.setup("predict")
    test = data.test_set
    assert test is not None
    evaluator.check_data(data.class_names, data.image_shape, "the data has")
    check(0 <= index < len(test), f"--index {index}: the test images are numbered from 0 to {len(test) - 1}")
    output = evaluator.models[0].predict_in_batches(test.images[index : index + 1])
    (row,) = make_rows(output, data.class_names)
    actual = data.class_names[int(test.labels[index])]
    say(f'predicted "{row["predicted"]}" ({percent(row["probability"])}), actual "{actual}"')
