"""Search for a configuration on the validation images; the test images are never looked at.

    python benchmarks/search.py benchmarks/record/best/grid.yaml

A grid is a YAML file with ``config``, a configuration next to it that all trials share, and
``trials``, the options of ``fit`` of each trial by its name. Every trial is a ``fit`` on one thread.
What it reached becomes a row of the CSV file with the grid's name; trials that have their row there
are not run again, and one that was stopped goes on with the epoch that it was in. To search on
several cores, start the script once for each with ``--core``; trials may be added meanwhile.
"""

import argparse
import csv
import fcntl
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

LAST = 5  # epochs whose validation accuracy is averaged: one alone differs from the next by chance
COLUMNS = ("trial", "options", "val_acc", "val_acc_best", "val_loss", "val_ece", "train_acc", "epochs", "minutes")


def main() -> None:
    """Runs the trials that have no row yet, and prints all, the best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--core", type=int, help="run on this core only (Linux)")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    table = args.grid.with_suffix(".csv")
    others: set[str] = set()  # trials that another search is at
    while trial := next((t for t in missing(args.grid, table) if t[0] not in others), None):
        name, options = trial
        folder = Path("lightning_logs/search") / args.grid.parent.name / name
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock") as ours:
            if not ours:
                others.add(name)
            elif trial in missing(args.grid, table):
                add_row(table, run(args.grid, name, options, folder))
    print(f"{'accuracy':>8} {'loss':>7} {'ece':>7} {'train':>7} {'epochs':>6} {'minutes':>7}  trial")
    for row in sorted(read_rows(table), key=lambda row: -float(row["val_acc"])):
        figures = [float(row[key]) for key in ("val_acc", "val_loss", "val_ece", "train_acc")]
        print(
            f"{figures[0]:8.4f} {figures[1]:7.4f} {figures[2]:7.4f} {figures[3]:7.4f} {row['epochs']:>6} "
            f"{row['minutes']:>7}  {row['trial']}: {row['options']}"
        )


def missing(grid: Path, table: Path) -> list[tuple[str, str]]:
    """Returns names and options of the trials that the table has no row of."""
    done = {row["trial"] for row in read_rows(table)}
    trials = yaml.safe_load(grid.read_text())["trials"]
    return [(name, options or "") for name, options in trials.items() if name not in done]


def run(grid: Path, name: str, options: str, folder: Path) -> dict[str, object]:
    """Trains a trial, or goes on with it, and returns its row of the table."""
    config = grid.parent / yaml.safe_load(grid.read_text())["config"]
    words = ["--config", str(config), *options.split(), "--trainer.default_root_dir", str(folder)]
    if list(folder.glob("*/version_*/checkpoints/last.ckpt")):
        words += ["--ckpt_path", "last"]
    started = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "fmnist", "fit", *words]
        code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
    if code:
        sys.exit(f"search: trial {name} ended with exit code {code}: see {folder}/output.txt")
    minutes = (time.monotonic() - started) / 60
    metrics = sorted(folder.glob("*/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)[-1]
    rows = read_rows(metrics)
    accuracies = [float(row["val/acc"]) for row in rows]
    return {
        "trial": name,
        "options": options,
        "val_acc": f"{statistics.mean(accuracies[-LAST:]):.4f}",
        "val_acc_best": f"{max(accuracies):.4f}",
        "val_loss": f"{float(rows[-1]['val/loss']):.4f}",
        "val_ece": f"{float(rows[-1]['val/ece']):.4f}",
        "train_acc": f"{float(rows[-1]['train/acc']):.4f}",
        "epochs": len(rows),
        "minutes": f"{minutes:.1f}",
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: dict[str, object]) -> None:
    """Appends a row in one write, so that several searches may share the table."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a file's lock, which ends with the process; yields whether it was free."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    main()
