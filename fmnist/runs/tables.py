"""The tables of a run: metrics.csv, times.csv and test/metrics.json, each written and read here."""

import csv
import io
from pathlib import Path

from fmnist.files import read_text


def read_seconds(run: Path) -> float | None:
    """Adds up the time of all epochs; one that was repeated after a crash counts once."""
    if not (run / "times.csv").exists():
        return None
    lines = (line.partition(",") for line in read_text(run / "times.csv").splitlines())
    return sum({epoch: float(seconds) for epoch, comma, seconds in lines if comma}.values())


def read_history(run: Path) -> list[dict[str, float]]:
    """Reads the ``metrics.csv`` of a run: a row per epoch, without the cells that are empty.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a table.
    """
    path = run / "metrics.csv"
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise ValueError(f"{path.name}: {error}") from error
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path.name} has rows of different lengths")
    return [{key: float(cell) for key, cell in row.items() if cell != ""} for row in rows]
