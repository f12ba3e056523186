"""Formats of a run's results: metrics.csv, times.csv and test/metrics.json, written and read."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from fmnist.errors import DamagedError
from fmnist.files import digest_file, open_no_follow, read_json, read_text, write_whole
from fmnist.runs.folder import results_folder

COLUMNS = ["epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc"]
LOGGED = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "acc")} | {"val/ece"}  # by every run
TIMES = "epoch,seconds"
MAX_EPOCH = 1e9  # the highest that can be drawn
MAX_DIGEST = 1 << 31  # bytes of a checkpoint that is hashed to see whether test results are its own
SCHEMA = 2  # version of metrics.json

Metrics = dict[str, Any]


def percent(share: float, digits: int = 2) -> str:
    """Returns a share from 0 to 1 as text, ``90.46%``."""
    return f"{100 * share:.{digits}f}%"


def write_history(rows: list[dict[str, float]], run: Path) -> None:
    """Writes ``metrics.csv``: a row per epoch, a cell empty where an epoch lacks the metric."""
    text, others = io.StringIO(), sorted({key for row in rows for key in row} - {*COLUMNS})
    writer = csv.DictWriter(text, [*COLUMNS, *others], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(run / "metrics.csv", text.getvalue())


def read_history(run: Path) -> list[dict[str, float]]:
    """Reads the ``metrics.csv`` of a run: a row per epoch, without the cells that are empty.

    Raises:
        OSError: The file cannot be read.
        DamagedError: The file is not such a table.
    """
    path = run / "metrics.csv"
    if not path.exists():
        return []
    try:
        return _parse(read_text(path))
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path} is damaged ({error}): remove it, nothing else needs it") from error


def _parse(text: str) -> list[dict[str, float]]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("rows of different lengths")
    read = [{str(key): float(cell) for key, cell in row.items() if cell != ""} for row in rows]
    if not all(1 <= row.get("epoch", 0) < MAX_EPOCH for row in read):
        raise ValueError("rows without an epoch")
    return read


def append_seconds(run: Path, epoch: int, seconds: float) -> None:
    """Adds the time of an epoch to ``times.csv``."""
    with open(run / "times.csv", "a", opener=open_no_follow) as file:
        if file.tell() == 0:
            file.write(f"{TIMES}\n")
        file.write(f"{epoch},{seconds:.3f}\n")


def read_seconds(run: Path) -> float | None:
    """Returns the seconds of all epochs; one that was repeated after a crash counts once.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a table.
    """
    if not (run / "times.csv").exists():
        return None
    header, *lines = read_text(run / "times.csv").splitlines() or [TIMES]
    if header != TIMES:
        raise DamagedError("times.csv is damaged")
    rows = (line.partition(",") for line in lines)
    return sum({epoch: float(seconds) for epoch, comma, seconds in rows if comma}.values())


def write_metrics(metrics: Metrics, path: Path) -> None:
    """Writes the results of a test as ``metrics.json``."""
    write_whole(path, json.dumps({"schema": SCHEMA, **metrics}, indent=2) + "\n")


def read_test(checkpoint: Path) -> Metrics:
    """Returns the test results of a checkpoint; empty if there are none for this very file.

    Those of a file above 2 GB are ignored, since hashing an untrusted file must not take minutes.

    Raises:
        OSError: The results or the checkpoint cannot be read.
        DamagedError: They are not results of a test.
    """
    path = results_folder(checkpoint) / "metrics.json"
    if not (path.is_file() and checkpoint.is_file() and checkpoint.stat().st_size <= MAX_DIGEST):
        return {}
    found = read_json(path)
    digests, shares = found.get("digests"), [found.get(name) for name in ("acc", "ece")]
    counted = isinstance(digests, dict) and isinstance(found.get("num_samples"), int)
    if not counted or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares):
        raise DamagedError("metrics.json is incomplete")
    whole = not found.get("partial") and found["digests"].get("checkpoint") == digest_file(checkpoint)
    return found if whole else {}


def read_known_test(checkpoint: Path) -> Metrics:
    """Returns what ``read_test`` does, and nothing where that fails."""
    try:
        return read_test(checkpoint)
    except (OSError, ValueError):
        return {}
