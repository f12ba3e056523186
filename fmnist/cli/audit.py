"""``audit``: labels that look wrong, by the network of the fold that each training image was left out of."""

import statistics
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fmnist.cli.console import quiet
from fmnist.cli.parser import DEFAULT_SOURCE, Parser, make_data_parser
from fmnist.cli.resolve import find_start, look
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.data.split import read_fold
from fmnist.devices import find_device
from fmnist.errors import UserError, check
from fmnist.evaluation.labels import Row, name_image, rank_labels, write_labels
from fmnist.inference.predictions import write_rows
from fmnist.runs.checkpoint import data_state, load_model
from fmnist.runs.folder import TRIAL, ended_mark, find_below, locate, newest_run
from fmnist.runs.settings import read_settings
from fmnist.runs.tables import percent
from fmnist.text import plain

EXAMPLE = "fmnist audit lightning_logs/folds"
SWEEP = "fmnist sweep configs/sweeps/folds.yaml"
SHOWN, DRAWN = 10, 100  # images on the screen, and on the page


class Fold(NamedTuple):
    """The labels of the images that a run was not trained on, and its predictions.

    Args:
        indices: Their places among the training images, int64 (M,).
        labels: int64 (M,).
        probabilities: float (M, num_classes).
    """

    indices: Tensor
    labels: Tensor
    probabilities: Tensor


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``audit``, with its one-line description and its arguments."""
    quiet()
    parser = make_data_parser("audit", description, EXAMPLE, " FOLDER")
    parser.add_argument("folder", type=str, metavar="FOLDER", help=f"Where the runs are, such as those of {SWEEP}.")
    name = _find_operand(argv)
    if {"-h", "--help"} & {*argv}:
        parser.parse_args([*argv])
    for option in look(argv).options:
        check(not option.typed or parser.uses(option.name), f"--{option.name} does nothing for audit: leave it out")
    check(bool(name), f"missing FOLDER, such as {EXAMPLE} (after: {SWEEP})")
    folder = locate(name)
    check(folder.is_dir(), f"{folder}: there is no such folder; name one that holds the runs of {SWEEP}")
    runs = find_folds(folder)
    print(f"audit: {len(runs)} runs in {folder}, last.ckpt of each, on {find_device('auto')}")
    predicted = [_predict_fold(path, parser, argv) for path in runs]
    data, folds = predicted[0][0], [fold for _, fold in predicted]
    order = torch.cat([fold.indices for fold in folds]).argsort()
    labels, probabilities = (torch.cat([fold[place] for fold in folds])[order] for place in (1, 2))
    rows = rank_labels(labels, probabilities, data.class_names, data.source.paths(train=True))
    accuracies = [(fold.probabilities.argmax(1) == fold.labels).double().mean().item() for fold in folds]
    _report(rows, data.source.load(train=True)[0], accuracies, folder)


def _find_operand(argv: Sequence[str]) -> str:
    """Finds the folder before the options can be parsed, since their defaults are in its runs; each takes a value."""
    pairs = zip(["", *argv], argv, strict=False)
    return next((word for before, word in pairs if word[:1] != "-" and (before[:1] != "-" or "=" in before)), "")


def find_folds(folder: Path) -> list[Path]:
    """Finds the runs below a folder that were each trained without one fold; runs without folds are ignored.

    Args:
        folder: A sweep, or any folder of runs.

    Returns:
        The run of each fold, the first fold first.

    Raises:
        UserError: A run is not finished or differs in more than its fold; a fold is missing or repeated.
    """
    found_runs = (path for path in sorted(find_below(folder, "version_*")) if (path / "config.yaml").is_file())
    runs = [path for path in found_runs if not _is_superseded(path)]
    settings = {path: read for path in runs if (read := _read_settings(path))["data"].get("fold")}
    check(bool(settings), f"{folder} holds no runs with data.fold; train them with: {SWEEP}")
    (first, wanted), *_ = settings.items()
    count, found = read_fold(str(wanted["data"]["fold"]))[1], dict[int, Path]()
    for path, other in settings.items():
        number, same = read_fold(fold := str(other["data"]["fold"]))
        what = f"{path} has fold {fold}, but {first} is one of {count} folds"
        check(same == count, f"{what}: keep runs of one number of folds in {folder}")
        differing = _find_difference(wanted, other)
        check(not differing, f"{path} differs from {first} in {differing}: folds must differ only in data.fold")
        check(number not in found, f"fold {fold} is there twice, {found.get(number)} and {path}: keep one in {folder}")
        last = path / "checkpoints" / "last.ckpt"
        ended = ended_mark(path).exists()
        check(ended, f"{path} (fold {fold}) is not finished: fmnist fit --ckpt_path {last}")
        check(last.is_file(), f"{last} is missing: train fold {fold} again")
        found[number] = path
    missing = islice((number for number in range(1, count + 1) if number not in found), SHOWN)
    names = ", ".join(f"{number}/{count}" for number in missing)
    check(not names, f"{folder} lacks fold {names}: train it, as {SWEEP} does")
    return [found[number] for number in sorted(found)]


def _is_superseded(run: Path) -> bool:
    """Returns whether a trial of a sweep has started a newer run."""
    trial = run.parent.parent
    return (trial / TRIAL).exists() and newest_run(trial) != run


def _read_settings(run: Path) -> dict[str, dict[str, Any]]:
    try:
        found = read_settings(run / "config.yaml")
        parts = {part: dict(found.get(part) or {}) for part in ("data", "model", "trainer")}
        return {**parts, "trainer": {"max_epochs": parts["trainer"].get("max_epochs")}}  # devices may differ
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        raise UserError(f"{run / 'config.yaml'} cannot be read ({reason}): take this run out of the folder") from error


def _find_difference(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> str:
    """Returns the first setting that differs; empty if none does."""
    for part in one:
        for key in sorted((one[part].keys() | other[part].keys()) - {"fold"}, key=str):
            if one[part].get(key) != other[part].get(key):
                return f"{part}.{key}"
    return ""


def _predict_fold(run: Path, parser: Parser, argv: Sequence[str]) -> tuple[FashionMNISTDataModule, Fold]:
    """Classifies the fold that a run was not trained on."""
    start = find_start("audit", [*argv], run / "checkpoints" / "last.ckpt")
    parser.set_defaults({**DEFAULT_SOURCE, **start.data})
    data: FashionMNISTDataModule = parser.instantiate(parser.parse_args([*argv])).data
    data.prepare_data()
    data.setup("validate")
    saved = data_state(start.checkpoint).get("split")
    changed = f"the data has changed since the training (the split was {saved}, now it is {data.split_digest})"
    check(data.split_digest == saved, f"{run}: {changed}: train again")
    model = load_model(start.path, start.checkpoint, start.network).to(find_device("auto"))
    fits = model.class_names == data.class_names and model.image_shape == tuple(data.image_shape)
    check(fits, f"{run}: the classes of the data, or the shape of its images, are not those of the network")
    assert data.held_out is not None
    assert data.val_set is not None
    probabilities = model.predict_in_batches(data.val_set.images).probabilities
    return data, Fold(data.held_out, data.val_set.labels, probabilities)


def _report(rows: list[Row], images: Any, accuracies: list[float], folder: Path) -> None:
    """Prints the result and the first images, whether or not both files can be written."""
    other = sum(row["given"] != row["predicted"] for row in rows)
    mean, std = percent(statistics.mean(accuracies)), percent(statistics.stdev(accuracies))
    lines = [
        f"acc {mean} ± {std} over {len(accuracies)} folds, {len(rows):,} images",
        f"{other:,} images are predicted as a class other than their label",
    ]
    print("\n".join([*lines, *map(_line, rows[:SHOWN])]))
    write_rows(rows, folder / "labels.csv")
    print(f"written: {folder / 'labels.csv'} (all images, the least probable label first)")
    heading = f"The {min(DRAWN, len(rows))} least probable labels of {len(rows):,}"
    remarks = [
        "Predicted by networks that were not trained on these images.",
        "Some are not wrong but rare: look before you change a label.",
    ]
    write_labels(folder / "labels.html", heading, [*lines, *remarks], rows[:DRAWN], images)
    print(f"written: {folder / 'labels.html'} (the first {min(DRAWN, len(rows))})")


def _line(row: Row) -> str:
    given, predicted = (f"{row[kind]} {percent(row[f'p({kind})'])}" for kind in ("given", "predicted"))
    return plain(f"  {name_image(row)}: given {given}, predicted {predicted}")
