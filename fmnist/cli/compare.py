"""One table of all runs: what differs between them, and how well they did."""

import csv
import io
import json
import math
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmnist.cli.plain import PlainParser
from fmnist.errors import check
from fmnist.files import read_json
from fmnist.runs.folder import LOGS, ended_mark, find_below, is_locked, newest_run, read_name, spell
from fmnist.runs.settings import read_settings
from fmnist.runs.tables import read_history, read_seconds, read_test
from fmnist.text import plain, table_cell

EXAMPLE = "fmnist compare --format markdown"
FORMATS = ("text", "markdown", "csv", "json")
METRICS = ("status", "epochs", "val/acc", "val/loss", "test/acc", "test/ece", "seconds")
SPREAD = ("val/acc", "val/loss", "test/acc", "test/ece")  # what a row of several seeds has a mean and a std of
WIDEST = 60  # characters of a cell
RESULT = "result.json"  # of the trial of a sweep
MAX_SETTINGS = 1000  # a configuration with more is not one of ours

Row = dict[str, Any]


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``compare``, described in a few words, with what was typed after it."""
    parser = PlainParser("compare", description, EXAMPLE, " [FOLDER]")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(LOGS), help=f"Where the runs are ({LOGS}).")
    parser.add_argument("--format", choices=FORMATS, default="text", help="How the table is written (text).")
    options = parser.parse_args([*argv])
    check(options.folder.is_dir(), f"{options.folder}: there is no such folder; name one that holds runs")
    rows = compare(options.folder)
    check(bool(rows), f"{options.folder} holds no runs: name a folder with version_N in it")
    print(write(rows, options.format))


def compare(folder: Path) -> list[Row]:
    """Describes all runs below a folder, the best validation accuracy first.

    Args:
        folder: Where to look for folders ``version_N``.

    Returns:
        A row per run: its folder, its name if one of them has any, its metrics (``None`` for what it has not
        measured), and those settings that differ between the runs. ``status`` tells finished runs from others.
    """
    runs = sorted(path for path in find_below(folder, "version_*") if path.is_dir())
    trials = sorted(path for path in find_below(folder, "trial_*") if (path / RESULT).is_file())
    refused = [path for path in trials if newest_run(path) is None]
    read = [_read(path) for path in runs] + [
        ({**dict.fromkeys(METRICS), "status": _ended(path)}, {}) for path in refused
    ]
    settings = [flat for _, flat in read]
    keys = sorted({key for flat in settings for key in flat} - {"trainer.default_root_dir"})
    readable = [flat for flat in settings if flat]
    differing = [key for key in keys if _differs([flat.get(key) for flat in readable], key)]
    rows = [
        {"run": spell(path), "name": read_name(path), **row, **{key: flat.get(key) for key in differing}}
        for path, (row, flat) in zip([*runs, *refused], read, strict=True)
    ]
    rows += _gather(rows, differing)
    empty = {"name"} if not any(row["name"] for row in rows) else set()
    rows = [{key: value for key, value in row.items() if key not in empty} for row in rows]
    return sorted(rows, key=lambda row: (-(row["val/acc"] or 0), row["run"]))


def _gather(rows: list[Row], settings: list[str]) -> list[Row]:
    """Makes a row of the runs that differ in the seed alone: the mean of each metric, and its standard deviation."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "finished":
            same = repr([row.get(key) for key in settings if key != "seed_everything"])
            groups.setdefault(same, []).append(row)
    gathered = []
    for group in groups.values():
        seeds = len({row.get("seed_everything") for row in group})
        if seeds < 2 or seeds < len(group):
            continue
        mean: Row = {**group[0], "run": f"{group[0]['run']} ...", "name": None, "status": f"mean of {seeds} seeds"}
        mean["seed_everything"] = ",".join(str(row["seed_everything"]) for row in group)
        for key in (*SPREAD, "seconds"):
            values = [row[key] for row in group if row.get(key) is not None]
            whole = len(values) == len(group)
            mean[key] = statistics.mean(values) if whole else None
            if key in SPREAD:
                mean[f"{key} std"] = statistics.stdev(values) if whole else None
        gathered.append(mean)
    if gathered:
        for row in rows:
            row |= {f"{key} std": None for key in SPREAD}
    return gathered


def _differs(values: list[Any], key: str) -> bool:
    # the classes are unknown before a run and written down when it is continued
    found = [value for value in values if value is not None] if key == "model.class_names" else values
    return len({repr(value) for value in found}) > 1


def _read(path: Path) -> tuple[Row, Row]:
    """Returns the metrics and the settings of a run; whatever is wrong with it becomes its status."""
    row: Row = dict.fromkeys(METRICS)
    try:
        made_here = (path / "config.yaml").exists() or not (path / "metrics.csv").exists()
        flat = _flatten(read_settings(path / "config.yaml")) if made_here else {}  # a notebook's run has no settings
        history = read_history(path)
        row |= {"epochs": len(history), "seconds": read_seconds(path)}
        planned = flat.get("trainer.max_epochs")
        ended = len(history) == planned or ended_mark(path).exists()
        row["status"] = "finished" if ended else f"{len(history)} of {planned or '?'} epochs"
        row["status"] = _ended(path.parent.parent) or row["status"] + (", running" if is_locked(path) else "")
        scored = [epoch for epoch in history if math.isfinite(epoch.get("val/acc", math.nan))]
        best = max(scored, key=lambda epoch: (epoch["val/acc"], -epoch.get("val/loss", 0)), default={})
        row |= {key: best.get(key) for key in ("val/acc", "val/loss")}
        row |= _read_test(path)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"{error.strerror}: {Path(error.filename or path).name}" if isinstance(error, OSError) else str(error)
        reason = reason.replace(os.path.join(path, ""), "")  # noqa: PTH118 - with the separator behind it
        row["status"] = f"broken: {' '.join(reason.split())[:60]}"
        return row, {}
    return row, flat


def _ended(trial: Path) -> str:
    """Tells how the trial of a sweep has ended, if not as a training should."""
    path = trial / RESULT
    try:
        result = read_json(path) if path.exists() else {}
    except (OSError, ValueError):
        return f"broken: {RESULT}"
    status, reason = result.get("status", "complete"), result.get("reason")
    return "" if status == "complete" else f"{status}: {reason}" if reason else str(status)


def _read_test(path: Path) -> Row:
    test = read_test(path / "checkpoints" / "best.ckpt")
    return {f"test/{name}": float(test[name]) for name in ("acc", "ece")} if test else {}


def _flatten(node: Any, prefix: str = "") -> Row:
    """Turns ``{a: {b: 1}}`` into ``{"a.b": 1}``."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: Row = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        if len(flat) > MAX_SETTINGS:
            raise ValueError("config.yaml has too many settings")
    return flat


def write(rows: list[Row], style: str) -> str:
    """Writes rows in one of the ``FORMATS``."""
    if style == "json":
        lines = json.dumps(rows, indent=2, ensure_ascii=False, default=str, skipkeys=True).split("\n")
        return "\n".join(map(plain, lines))
    if style == "csv":
        text = io.StringIO()
        table = [[*rows[0]], *(row.values() for row in rows)]
        csv.writer(text, lineterminator="\n").writerows(map(table_cell, line) for line in table)
        return text.getvalue().rstrip("\n")
    rows = [_join(row) for row in rows]
    rows = [_shorten(row) for row in rows] if style == "text" else rows
    cells = [[_cell(value) for value in line] for line in (rows[0], *(row.values() for row in rows))]
    if style == "markdown":
        cells = [[cell.replace("|", r"\|") for cell in line] for line in cells]
        cells.insert(1, ["---"] * len(cells[0]))
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)
    room = shutil.get_terminal_size((200, 24)).columns
    widths: list[int] = []
    for column in zip(*cells, strict=True):
        width = max(map(len, column))
        if sum(widths) + 2 * len(widths) + width > room:
            break
        widths.append(width)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in cells]
    if len(widths) < len(cells[0]):
        lines.append(f"({len(cells[0]) - len(widths)} more columns do not fit: --format csv has all)")
    return "\n".join(lines)


def _join(row: Row) -> Row:
    """Puts mean and standard deviation into one cell."""
    std = {key: row.get(f"{key} std") for key in SPREAD}
    joined = {key: f"{row[key]:.4f} ± {value:.4f}" for key, value in std.items() if value is not None}
    return {key: joined.get(key, value) for key, value in row.items() if not key.endswith(" std")}


def _shorten(row: Row) -> Row:
    """Gives settings the last part of their name, where that is enough, and puts an optimizer into one cell."""
    short = {key: key if "/" in key else key.removeprefix("trainer.").replace("init_args.", "") for key in row}
    last = [name.rpartition(".")[2] for name in short.values()]
    short = {key: end if last.count(end) == 1 else name for (key, name), end in zip(short.items(), last, strict=True)}
    inside = {key: value for key, value in row.items() if key.startswith("model.optimizer.")}
    given = [f"{key.rpartition('.')[2]}={_cell(value)}" for key, value in inside.items() if "init_args" in key]
    name = str(row.get("model.optimizer.class_path") or "").rpartition(".")[2]
    shown = {short[key]: value for key, value in row.items() if key not in inside}
    return {**shown, "optimizer": f"{name}({', '.join(given)})" if name else ", ".join(given)} if inside else shown


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else plain(" ".join(str(value).split()))
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
