"""Labels that look wrong: every training image, judged by the network of a fold that has not seen it."""

import argparse
import statistics
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fmnist.cli.parser import DEFAULT_SOURCE, Parser
from fmnist.cli.screen import quiet
from fmnist.cli.start import find_start, scan
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.data.split import read_fold
from fmnist.devices import find_device
from fmnist.errors import UserError, check
from fmnist.evaluation.labels import Judged, Row, name_image, write_labels
from fmnist.files import expand
from fmnist.inference.predictions import write_rows
from fmnist.model.trained import judge_all
from fmnist.runs.checkpoint import load_model
from fmnist.runs.folder import ended_mark, find_below, newest_run
from fmnist.runs.settings import SHARED_KEYS, read_settings
from fmnist.runs.tables import percent
from fmnist.text import plain

EXAMPLE = "fmnist audit lightning_logs/folds"
SWEEP = "python -m fmnist sweep configs/sweeps/folds.yaml"
SHOWN, DRAWN = 10, 100  # images on the screen, and on the page


class Part(NamedTuple):
    """A fold, judged.

    Args:
        indices: Its images among the training images, int64 (M,).
        images: uint8 (M, 1, 28, 28).
        labels: int64 (M,).
        probabilities: float (M, num_classes).
    """

    indices: Tensor
    images: Tensor
    labels: Tensor
    probabilities: Tensor


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``audit``, described in a few words, with what was typed after it."""
    quiet()
    scan([*argv])
    parser = _make_parser(description)
    name = _find_folder(argv)
    if {"-h", "--help"} & {*argv}:
        parser.parse_args([*argv])
    check(bool(name), f"name the folder that holds the runs of {SWEEP}: {EXAMPLE}")
    folder = expand(name)
    check(folder.is_dir(), f"{folder}: there is no such folder; name one that holds the runs of {SWEEP}")
    runs = find_folds(folder)
    print(f"audit: {len(runs)} runs in {folder}, last.ckpt of each, on {find_device('auto')}")
    judged = [_judge(path, parser, argv) for path in runs]
    data = judged[0][0]
    parts = [part for _, part in judged]
    order = torch.cat([part.indices for part in parts]).argsort()
    images, labels, probabilities = (torch.cat([part[place] for part in parts])[order] for place in (1, 2, 3))
    whole = Judged(images, labels, probabilities, data.class_names, data.source.paths(train=True))
    _report(whole, [_accuracy(part) for part in parts], folder)


def _find_folder(words: Sequence[str]) -> str:
    """Finds the operand before the options can be parsed, since what they lack is in the runs; each takes a value."""
    pairs = zip(["", *words], words, strict=False)
    return next((word for before, word in pairs if word[:1] != "-" and (before[:1] != "-" or "=" in before)), "")


def _make_parser(description: str) -> Parser:
    text = f"{description[0].upper()}{description[1:]}."
    parser = Parser(usage="fmnist audit [options] FOLDER", description=text, epilog=f"example: {EXAMPLE}")
    parser.add_argument("folder", type=str, metavar="FOLDER", help=f"Where the runs are, such as those of {SWEEP}.")
    parser.add_argument("-c", "--config", action="config", help="Configuration file; only its data part counts.")
    parser.add_class_arguments(FashionMNISTDataModule, "data")
    parser.set_defaults(DEFAULT_SOURCE)
    for key in {*SHARED_KEYS} - {"data"}:  # so that any configuration is accepted, and a network can be named
        parser.add_argument(f"--{key}", type=dict[str, Any] if key == "model" else Any, help=argparse.SUPPRESS)
    return parser


def find_folds(folder: Path) -> list[Path]:
    """Finds the runs below a folder that were each trained without one fold; those without folds are left alone.

    Args:
        folder: That of a sweep, or any that holds runs.

    Returns:
        The run of each fold, the first fold first.

    Raises:
        UserError: A run is not finished or differs in more than its fold; a fold is missing, or there twice.
    """
    found_runs = (path for path in sorted(find_below(folder, "version_*")) if (path / "config.yaml").is_file())
    runs = [path for path in found_runs if not _is_left(path)]
    settings = {path: read for path in runs if (read := _read_settings(path))["data"].get("fold")}
    check(bool(settings), f"{folder} holds no runs with data.fold: {SWEEP}")
    (first, wanted), *_ = settings.items()
    count, found = read_fold(str(wanted["data"]["fold"]))[1], dict[int, Path]()
    for path, other in settings.items():
        number, same = read_fold(fold := str(other["data"]["fold"]))
        check(same == count, f"{path} has fold {fold}, {first} one of {count}: keep one number of folds in {folder}")
        differing = _find_difference(wanted, other)
        check(not differing, f"{path} differs from {first} in {differing}: folds must differ in data.fold alone")
        check(number not in found, f"fold {fold} is there twice, {found.get(number)} and {path}: keep one in {folder}")
        last = path / "checkpoints" / "last.ckpt"
        ended = ended_mark(path).exists()
        check(ended, f"{path} (fold {fold}) is not finished: python -m fmnist fit --ckpt_path {last}")
        check(last.is_file(), f"{last} is missing: train fold {fold} again")
        found[number] = path
    missing = islice((number for number in range(1, count + 1) if number not in found), SHOWN)
    names = ", ".join(f"{number}/{count}" for number in missing)
    check(not names, f"{folder} lacks fold {names}: train it, as {SWEEP} does")
    return [found[number] for number in sorted(found)]


def _is_left(run: Path) -> bool:
    """Tells whether a trial of a sweep has begun anew since."""
    trial = run.parent.parent
    return (trial / "trial.json").exists() and newest_run(trial) != run


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
        for key in sorted((one[part].keys() | other[part].keys()) - {"fold", "class_names"}, key=str):
            if one[part].get(key) != other[part].get(key):
                return f"{part}.{key}"
    return ""


def _judge(run: Path, parser: Parser, argv: Sequence[str]) -> tuple[FashionMNISTDataModule, Part]:
    """Asks the network of a run about the fold that it has not been trained on."""
    start = find_start("audit", [*argv], run / "checkpoints" / "last.ckpt")
    parser.set_defaults({**DEFAULT_SOURCE, **start.data})
    data: FashionMNISTDataModule = parser.instantiate_classes(parser.parse_args([*argv])).data
    data.prepare_data()
    data.setup("validate")
    saved = (start.checkpoint.get("FashionMNISTDataModule") or {}).get("split")
    changed = f"{run}: the data has changed since the training (split {data.split_digest}, it was {saved}): train again"
    check(data.split_digest == saved, changed)
    model = load_model(start.path, start.checkpoint, start.network).to(find_device("auto"))
    check(model.class_names == data.class_names, f"{run}: the classes of the data are not those of the network")
    assert data.held_out is not None
    assert data.val_set is not None
    images, labels = data.val_set.images, data.val_set.labels
    return data, Part(data.held_out, images, labels, judge_all(model, images)[0])


def _accuracy(part: Part) -> float:
    return float((part.probabilities.argmax(1) == part.labels).double().mean())


def _report(judged: Judged, accuracies: list[float], folder: Path) -> None:
    """Writes both files, then prints the result and the first images."""
    rows = [*judged.rows()]
    other = sum(row["given"] != row["predicted"] for row in rows)
    mean, std = percent(statistics.mean(accuracies)), percent(statistics.stdev(accuracies))
    lines = [
        f"acc {mean} ± {std} over {len(accuracies)} folds, {len(rows):,} images",
        f"{other:,} images are predicted as another class than the given one",
    ]
    write_rows(rows, folder / "labels.csv")
    heading = f"The {min(DRAWN, len(rows))} least probable labels of {len(rows):,}"
    remark = (
        "Judged by networks that have not seen them. Rare images are among them, too: look before you change a label."
    )
    write_labels(judged, rows[:DRAWN], heading, [*lines, remark], folder / "labels.html")
    print("\n".join(lines))
    print("\n".join(map(_line, rows[:SHOWN])))
    print(f"written: {folder / 'labels.csv'} (all images, the least probable label first)")
    print(f"written: {folder / 'labels.html'} (the first {min(DRAWN, len(rows))})")


def _line(row: Row) -> str:
    given, predicted = (f"{row[kind]} {percent(row[f'p({kind})'])}" for kind in ("given", "predicted"))
    return plain(f"  {name_image(row)}: given {given}, predicted {predicted}")
