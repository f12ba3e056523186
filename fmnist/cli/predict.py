"""The verb ``predict``: pictures, or the test images, into a file or on the screen."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fmnist.cli.plain import PlainParser, add_checkpoint_arguments, add_transform
from fmnist.cli.screen import quiet, say
from fmnist.cli.start import Start, find_start
from fmnist.devices import find_device
from fmnist.errors import UserError, check
from fmnist.files import check_unused, expand
from fmnist.inference.predictions import STDOUT, check_output, label_rows, write_rows
from fmnist.inference.predictor import Predictor
from fmnist.inference.stream import classify_files, find_pictures
from fmnist.model.trained import TrainedModel, judge_all
from fmnist.runs.checkpoint import load_members
from fmnist.runs.tables import percent

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import Trainer

    from fmnist.data.datamodule import FashionMNISTDataModule
    from fmnist.training.classifier import ImageClassifier

EXAMPLE = "fmnist predict --images photos --output predictions.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``predict`` has beside the options of the Trainer."""
    images = "Pictures, folders or patterns to classify instead of the test images."
    parser.add_argument("--images", nargs="+", type=str, metavar="PATH", help=images)
    add_transform(parser)
    parser.add_argument("--output", type=str, help="File to write, .csv or .jsonl, or - for standard output.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
    parser.add_argument("--index", type=int, help="Print the prediction for this test image instead.")
    parser.add_argument("--save_converted", type=str, help="Folder for what the network saw of each picture.")
    parser.add_argument("--explain", type=str, help="Folder for which pixels decided: orange for, blue against.")


def run_without_trainer(description: str, argv: list[str]) -> bool:
    """Classifies pictures without importing Lightning, which takes longer than classifying a thousand.

    Args:
        description: What the verb does.
        argv: What was typed after it.

    Returns:
        Whether that was possible: whatever only the Trainer understands is left to it, mistakes included.
    """
    if {"-h", "--help"} & {*argv}:
        return False  # the Trainer's help has all options
    parser = PlainParser("predict", description, EXAMPLE)
    add_arguments(parser)
    add_checkpoint_arguments(parser)
    parser.add_argument("--trainer.accelerator", dest="accelerator", default="auto")
    try:
        settings, rest = parser.parse_known_args(argv)
    except (UserError, SystemExit):
        return False
    device = find_device(settings.accelerator)
    if rest or device is None or settings.images is None or settings.index is not None or settings.config:
        return False
    quiet()
    paths = _check_pictures(settings)
    start = find_start("predict", argv)
    model = load_members(start.members, start.network).to(device)
    start.announce(device)
    _classify(_make_predictor(start, model), paths, settings)
    return True


def predict(
    start: Start, settings: "Namespace", trainer: "Trainer", model: "ImageClassifier", data: "FashionMNISTDataModule"
) -> None:
    """Classifies pictures, or the test images: all into a file, or one on the screen."""
    for option in ("save_converted", "explain"):
        check(settings.images or not getattr(settings, option), f"--{option} needs --images")
    if settings.index is not None:
        unwanted = settings.output is None and settings.images is None
        check(unwanted, "--index prints one prediction of a test image: leave out --output and --images")
        _predict_one(settings.index, start, trainer, model, data)
    elif settings.images is not None:
        paths = _check_pictures(settings)
        start.load_weights(model, trainer)
        _classify(_make_predictor(start, model.trained().to(trainer.strategy.root_device)), paths, settings)
    else:
        output = _check_output(settings)
        start.load_weights(model, trainer)
        batches: Any = trainer.predict(model, datamodule=data, return_predictions=True)
        check(bool(batches), "there is nothing to predict: trainer.limit_predict_batches is 0")
        probabilities = _gather(torch.cat(batches), trainer.world_size)
        if trainer.is_global_zero:
            assert data.test_set is not None
            labels = data.test_set.labels[: len(probabilities)]  # fewer under limit_predict_batches
            _, typicality = judge_all(model.trained(), data.test_set.images[: len(labels)])
            files = data.source.paths(train=False)
            write_rows(label_rows(probabilities, labels, data.class_names, files, typicality), output)
            _say_written(output, len(labels))


def _check_output(settings: Any) -> Path:
    if settings.output is None:
        raise UserError("say where the predictions go: --output FILE.csv, FILE.jsonl or - for the screen")
    output = expand(settings.output)
    check_output(output, settings.overwrite)
    return output


def _check_pictures(settings: Any) -> list[str]:
    """Returns the files, once everything that could go wrong in the end has been looked at."""
    output = _check_output(settings) if settings.output else None
    paths = find_pictures(settings.images)
    check(str(output) not in paths, f"--output {output}: this is one of the pictures")
    for option in ("save_converted", "explain"):
        if getattr(settings, option):
            _check_folder(f"--{option}", expand(getattr(settings, option)), settings.images)
    return paths


def _check_folder(option: str, folder: Path, images: list[str]) -> None:
    check_unused(option, folder)
    folders = [expand(spec).resolve() for spec in images if expand(spec).is_dir()]
    inside = any(folder.resolve().is_relative_to(other) for other in folders)
    check(not inside, f"{option} {folder}: this is inside the folder of the pictures")


def _make_predictor(start: Start, model: TrainedModel) -> Predictor:
    """Returns what converts pictures as in training; its transform only if the user has named it."""
    return Predictor(model, start.checkpoint.get("conversion"), start.transform)


def _classify(predictor: Predictor, paths: list[str], settings: Any) -> None:
    failed, empty = list[str](), list[str]()
    output = expand(settings.output) if settings.output else None
    seen, why = (expand(given) if given else None for given in (settings.save_converted, settings.explain))
    error = sys.stderr if output == STDOUT else None
    rows = classify_files(predictor, paths, seen, why, failed, empty)
    if output is None:
        width = min(40, max(map(len, paths)))
        for row in rows:
            say(_line(row, width))
    else:
        write_rows(rows, output)
        _say_written(output, len(paths) - len(failed))
    if empty:
        say(f"notice: {len(empty):,} of {len(paths):,} pictures are nothing but background and get no class", error)
    if failed:
        some = f"{len(failed):,} of {len(paths):,} files could not be read"
        say(f"notice: {some}: the column 'error' says why", error)


def _line(row: dict[str, Any], width: int) -> str:
    """Writes the three most probable classes of a picture, aligned with those of others."""
    best = sorted(((value or 0, name[2:-1]) for name, value in row.items() if name.startswith("p(")), reverse=True)[:3]
    longest = max(len(name) - 3 for name in row if name.startswith("p("))
    classes = "  ".join(f"{name:{longest}} {percent(value):>8}" for value, name in best)
    known = classes if row["predicted"] else row["error"] or "no class"
    return f"{row['path']:{width}}  {known}  {row['note'] or ''}".rstrip()


def _say_written(output: Path, count: int) -> None:
    if output != STDOUT:
        say(f"written: {output} ({count:,} predictions)")


def _gather(share: torch.Tensor, processes: int) -> torch.Tensor:
    """Returns the rows of all processes in the order of the data."""
    from fmnist.training.metrics import in_order

    shares: list[Any] = [share.cpu()] * processes
    if processes > 1:
        torch.distributed.all_gather_object(shares, share.cpu())
    return in_order(torch.cat(shares))


def _predict_one(
    index: int, start: Start, trainer: "Trainer", model: "ImageClassifier", data: "FashionMNISTDataModule"
) -> None:
    start.load_weights(model, trainer)
    data.prepare_data()
    data.setup("predict")
    test = data.test_set
    assert test is not None
    check(0 <= index < len(test), f"--index {index}: the test images are numbered from 0 to {len(test) - 1}")
    one = slice(index, index + 1)
    with torch.inference_mode():
        probabilities = model.trained()(test.images[one])
    (row,) = label_rows(probabilities, test.labels[one], data.class_names)
    say(f'predicted "{row["predicted"]}" ({percent(row["probability"])}), actual "{row["actual"]}"')
