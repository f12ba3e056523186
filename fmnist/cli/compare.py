"""``compare``: one table of all runs, their results and the settings in which they differ."""

import csv
import io
import math
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmnist.cli.options import PlainParser, add_root
from fmnist.errors import check
from fmnist.files import expand, read_json
from fmnist.runs.folder import LOGS, RESULT, ended_mark, find_below, is_locked, locate, newest_run, read_name, show_path
from fmnist.runs.settings import read_settings
from fmnist.runs.tables import percent, read_history, read_seconds, read_test
from fmnist.text import display_width, pad, plain, table_cell

EXAMPLE = "fmnist compare lightning_logs/mlp"
FIRST = ("status", "epochs", "val/acc", "test/acc")  # before the settings that differ
LAST = ("val/loss", "test/ece", "seconds")
SHARES = ("val/acc", "test/acc", "test/ece")  # written in percent
SPREAD = ("val/acc", "val/loss", "test/acc", "test/ece")  # have a standard deviation over several seeds
WIDEST = 60  # characters of a cell
MAX_SETTINGS = 1000  # of a configuration; ours have a tenth of that

Row = dict[str, Any]


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``compare``, with its one-line description and its arguments."""
    parser = PlainParser("compare", description, EXAMPLE, " [FOLDER]")
    parser.add_argument("folder", nargs="?", help=f"Folder of the runs ({LOGS}).")
    add_root(parser)
    parser.add_argument("--format", choices=("text", "csv"), default="text", help="How the table is written (text).")
    args = parser.parse_args([*argv])
    folder = locate(args.folder, expand(args.root)) if args.folder else expand(args.root) / LOGS
    check(folder.is_dir(), f"{folder}: there is no such folder; name one that holds runs")
    rows = list_runs(folder)
    check(bool(rows), f"{folder} holds no runs: name a folder with version_N in it")
    print(format_csv(rows) if args.format == "csv" else format_text(rows))


def list_runs(folder: Path) -> list[Row]:
    """Describes all runs below a folder, the best validation accuracy first.

    Args:
        folder: Where to look for folders ``version_N``, and for trials of a sweep that were refused.

    Returns:
        A row per run: its folder, its name if one of them has any, its ``status``, its metrics (``None`` if it lacks
        one), and the settings that differ between the runs. Runs that differ only in the seed have one more row.
    """
    runs = sorted(path for path in find_below(folder, "version_*") if path.is_dir())
    trials = sorted(path for path in find_below(folder, "trial_*") if (path / RESULT).is_file())
    read = {path: _read_run(path) for path in runs}
    read |= {path: ({"status": _find_failure(path)}, {}) for path in trials if newest_run(path) is None}
    readable = [settings for _, settings in read.values() if settings]
    keys = sorted({key for settings in readable for key in settings} - {"trainer.default_root_dir"})
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in readable}) > 1]
    rows = [
        {"run": show_path(path), "name": read_name(path), **dict.fromkeys(FIRST)}
        | {key: settings.get(key) for key in differing}
        | {**dict.fromkeys(LAST), **row}
        for path, (row, settings) in read.items()
    ]
    rows += _gather_seeds(rows, differing)
    if not any(row["name"] for row in rows):
        rows = [{key: value for key, value in row.items() if key != "name"} for row in rows]
    return sorted(rows, key=lambda row: (-(row["val/acc"] or 0), row["run"]))


def _gather_seeds(rows: list[Row], settings: list[str]) -> list[Row]:
    """Returns a row for runs that differ only in the seed: the mean of each metric, and its standard deviation."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "finished":
            same = repr([row.get(key) for key in settings if key != "seed_everything"])
            groups.setdefault(same, []).append(row)
    gathered = []
    for group in groups.values():
        seeds = len({repr(row.get("seed_everything")) for row in group})
        if seeds < 2 or seeds < len(group):
            continue
        mean: Row = {**group[0], "run": f"{group[0]['run']} ...", "name": None, "status": f"mean of {seeds} seeds"}
        mean["seed_everything"] = ",".join(str(row["seed_everything"]) for row in group)
        for key in (*SPREAD, "seconds"):
            values = [row[key] for row in group if row[key] is not None]
            whole = len(values) == len(group)
            mean[key] = statistics.mean(values) if whole else None
            if key in SPREAD:
                mean[f"{key} std"] = statistics.stdev(values) if whole else None
        gathered.append(mean)
    if gathered:
        for row in rows:
            row |= {f"{key} std": None for key in SPREAD}
    return gathered


def _read_run(path: Path) -> tuple[Row, Row]:
    """Returns the metrics and the settings of a run; whatever is wrong with it becomes its status."""
    row: Row = {}
    try:
        made_here = (path / "config.yaml").exists() or not (path / "metrics.csv").exists()
        settings = _flatten(read_settings(path / "config.yaml")) if made_here else {}  # a notebook's run has none
        history = read_history(path)
        row |= {"epochs": len(history), "seconds": read_seconds(path)}
        planned = settings.get("trainer.max_epochs")
        ended = len(history) == planned or ended_mark(path).exists()
        status = "finished" if ended else f"{len(history)} of {planned or '?'} epochs"
        row["status"] = _find_failure(path.parent.parent) or status + (", running" if is_locked(path) else "")
        scored = [epoch for epoch in history if math.isfinite(epoch.get("val/acc", math.nan))]
        best = max(scored, key=lambda epoch: (epoch["val/acc"], -epoch.get("val/loss", 0)), default={})
        row |= {key: best.get(key) for key in ("val/acc", "val/loss")}
        test = read_test(path / "checkpoints" / "best.ckpt")
        row |= {f"test/{name}": float(test[name]) for name in ("acc", "ece") if test}
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"{error.strerror}: {Path(error.filename or path).name}" if isinstance(error, OSError) else str(error)
        reason = reason.replace(os.path.join(path, ""), "")  # noqa: PTH118 - with the separator behind it
        row["status"] = f"broken: {' '.join(reason.split())[:60]}"
        return row, {}
    return row, settings


def _find_failure(trial: Path) -> str:
    """Returns why a trial of a sweep has failed; empty if it has not, and for any other folder."""
    path = trial / RESULT
    try:
        result = read_json(path) if trial.match("trial_*") and path.exists() else {}
    except (OSError, ValueError):
        return f"broken: {RESULT}"
    status, reason = result.get("status", "complete"), result.get("reason")
    return "" if status == "complete" else f"{status}: {reason}" if reason else str(status)


def _flatten(node: Any, name: str = "") -> Row:
    """Returns settings by option: ``{a: {class_path: B, init_args: {c: 1}}}`` becomes ``{"a": "B", "a.c": 1}``."""
    if not isinstance(node, dict):
        return {name: node}
    flat: Row = {}
    for key, value in node.items():
        flat |= _flatten(value, name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip("."))
        if len(flat) > MAX_SETTINGS:
            raise ValueError("config.yaml has too many settings")
    return flat


def format_csv(rows: list[Row]) -> str:
    """Writes rows as CSV, with the columns of the first."""
    text = io.StringIO()
    table = [[*rows[0]], *(row.values() for row in rows)]
    csv.writer(text, lineterminator="\n").writerows(map(table_cell, line) for line in table)
    return text.getvalue().rstrip("\n")


def format_text(rows: list[Row]) -> str:
    """Writes rows as a table with as many columns as the terminal has room for, numbers to the right."""
    hidden = {"status"} if all(row["status"] == "finished" for row in rows) else set()
    lines = [{key: _as_text(row, key) for key in row if key not in hidden and key[-4:] != " std"} for row in rows]
    cells = [[*map(_cut, lines[0])], *([*line.values()] for line in lines)]
    numbers = {*FIRST[1:], *LAST}
    room = shutil.get_terminal_size((200, 24)).columns
    columns: list[list[str]] = []
    for column in zip(*cells, strict=True):
        width = max(map(display_width, column))
        if sum(display_width(other[0]) + 2 for other in columns) + width > room:
            break
        columns.append([pad(cell, width, right=column[0] in numbers) for cell in column])
    table = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    if len(columns) < len(cells[0]):
        table.append(f"({len(cells[0]) - len(columns)} columns hidden; --format csv shows all)")
    return "\n".join(table)


def _as_text(row: Row, key: str) -> str:
    """Returns a cell: shares in percent, and the mean of several seeds with its standard deviation."""
    value = row[key]
    if value is None:
        return "-"
    if key in SPREAD or key == "seconds":
        write = percent if key in SHARES else "{:.1f}".format if key == "seconds" else "{:.4f}".format
        return " ± ".join(write(part) for part in (value, row.get(f"{key} std")) if part is not None)
    return f"{value:.4g}" if isinstance(value, float) else _cut(value)


def _cut(value: Any) -> str:
    text = plain(" ".join(str(value).split()))
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
