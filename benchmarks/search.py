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
from pathlib import Path

import yaml

from fmnist.runs.folder import find_checkpoint, lock
from fmnist.runs.tables import read_history, read_seconds

LAST = 5  # epochs whose validation accuracy is averaged: one alone differs from the next by chance
COLUMNS = ("trial", "options", "val_acc", "val_acc_best", "val_loss", "val_ece", "train_acc", "epochs", "minutes")


def main() -> None:
    """Runs the trials that have no row yet, and prints all, the best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--core", type=int, help="run on this core only (Linux)")
    args = parser.parse_args()
    if not args.grid.is_file():
        parser.error(f"{args.grid}: there is no such grid")
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    table = args.grid.with_suffix(".csv")
    others: set[str] = set()  # trials that another search is at
    while trial := next((t for t in missing(args.grid, table) if t[0] not in others), None):
        name, options = trial
        folder = Path("lightning_logs/search") / args.grid.parent.name / name
        folder.mkdir(parents=True, exist_ok=True)
        handle = lock(folder)
        if handle is None:
            others.add(name)
            continue
        if trial in missing(args.grid, table):
            add_row(table, run(args.grid, name, options, folder))
        os.close(handle)
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
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "fmnist", "fit", *words]
        code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
    if code:
        sys.exit(f"search: trial {name} ended with exit code {code}: see {folder}/output.txt")
    trained = find_checkpoint("last", folder).parent.parent
    rows, seconds = read_history(trained), read_seconds(trained)
    accuracies = [row["val/acc"] for row in rows]
    return {
        "trial": name,
        "options": options,
        "val_acc": f"{statistics.mean(accuracies[-LAST:]):.4f}",
        "val_acc_best": f"{max(accuracies):.4f}",
        "val_loss": f"{rows[-1]['val/loss']:.4f}",
        "val_ece": f"{rows[-1]['val/ece']:.4f}",
        "train_acc": f"{rows[-1]['train/acc']:.4f}",
        "epochs": len(rows),
        "minutes": f"{(seconds or 0) / 60:.1f}",
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: dict[str, object]) -> None:
    """Appends a row, while no other search does."""
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if path.stat().st_size == 0:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
