"""Trials on disk: a folder each, with its options, its run and its result. Nothing else is kept of a sweep."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from fmnist.errors import DamagedError, PlaceError, check
from fmnist.files import read_end, read_json, write_whole
from fmnist.runs.folder import lock, newest_run
from fmnist.runs.tables import read_history
from fmnist.sweep.space import Plan, Point, check_same

OPTIONS, RESULT, SWEEP, LOG = "trial.json", "result.json", "sweep.json", "log.txt"


@dataclass(frozen=True)
class Trial:
    """A trial.

    Args:
        path: Its folder.
        point: What it tries.
        name: Its name, if it is one of those that are tried first.
    """

    path: Path
    point: Point | list[str]
    name: str | None = None

    @property
    def number(self) -> int:
        """Counted from 0."""
        return int(self.path.name.removeprefix("trial_"))

    @property
    def run(self) -> Path | None:
        """Its run; None before there is one."""
        return newest_run(self.path)

    def result(self) -> dict[str, Any] | None:
        """Reads what became of it; None while that is open."""
        path = self.path / RESULT
        return _read_json(path) if path.exists() else None

    def finish(self, status: str, **more: Any) -> None:
        """Writes what became of it."""
        write_whole(self.path / RESULT, json.dumps({"status": status, **more}) + "\n")

    def values(self, metric: str) -> dict[int, float]:
        """Returns a metric of its epochs, counted from 1; of those that have it."""
        rows = read_history(self.run) if self.run else []
        return {int(row["epoch"]): row[metric] for row in rows if metric in row}

    def value(self, plan: Plan) -> float | None:
        """Returns the figure by which it is judged; None if no epoch has the metric."""
        values = [*self.values(plan.metric).values()]
        if not values or isinstance(plan.read, int):
            return mean(values[-int(plan.read) :]) if values else None
        return values[-1] if plan.read == "last" else (min if plan.mode == "min" else max)(values)

    def last_words(self) -> str:
        """Returns the line with which ``fit`` has ended."""
        lines = read_end(self.path / LOG).splitlines() or [""]
        said = [line for line in lines if line.startswith("fmnist: error: ")]
        return (said or lines)[-1].removeprefix("fmnist: error: ")


def open_sweep(folder: Path, plan: Plan, typed: Sequence[str], path: Path) -> None:
    """Makes the folder of a sweep, or sees that it is that of this one.

    Raises:
        UserError: It is that of another sweep, or of something else.
    """
    record = plan.record(typed)
    if not folder.exists():
        draft = folder.with_name(f".{uuid.uuid4().hex}")
        draft.mkdir(parents=True)
        write_whole(draft / SWEEP, json.dumps(record, indent=1))
        try:
            draft.rename(folder)
            return
        except OSError:  # another process was faster
            (draft / SWEEP).unlink()
            draft.rmdir()
            check(folder.exists(), f"{folder} cannot be made")
    check((folder / SWEEP).is_file(), f"{folder} holds something else: give the file of the sweep another name")
    check_same(_read_json(folder / SWEEP), json.loads(json.dumps(record)), path)


def read_trials(folder: Path) -> list[Trial]:
    """Reads all trials of a sweep, in their order."""
    found = (file.parent for file in folder.glob(f"trial_*/{OPTIONS}") if re.fullmatch(r"trial_\d+", file.parent.name))
    read = ((path, _read_json(path / OPTIONS)) for path in found)
    trials = (Trial(path, options.get("point") or {}, options.get("name")) for path, options in read)
    return sorted(trials, key=lambda trial: trial.number)


def clear_drafts(folder: Path) -> None:
    """Removes what a process that was killed has begun to make here; nobody else makes anything."""
    for left in folder.glob(f".{'?' * 32}"):
        shutil.rmtree(left)


def add_trial(folder: Path, number: int, point: Point | list[str], name: str | None) -> Trial:
    """Writes a trial, whole, before anything of it runs; the sweep's lock is held."""
    clear_drafts(folder)
    draft = folder / f".{uuid.uuid4().hex}"
    draft.mkdir()
    write_whole(draft / OPTIONS, json.dumps({"name": name, "point": point}) + "\n")
    return Trial(draft.rename(folder / f"trial_{number:03}"), point, name)


def take_open(trials: Sequence[Trial], tested: bool) -> tuple[Trial, int] | None:
    """Takes a trial that nobody is at and that is not done; None if there is none.

    Args:
        trials: All trials.
        tested: Whether a complete trial is done only when it has been tested.

    Returns:
        The trial, and the handle of its lock.
    """
    for trial in trials:
        if is_done(trial, tested):
            continue
        handle = lock(trial.path)
        if handle is None:
            continue
        if not is_done(trial, tested):
            return trial, handle
        os.close(handle)
    return None


def is_done(trial: Trial, tested: bool) -> bool:
    """Tells whether a trial needs nothing more."""
    result = trial.result()
    if result is None or not tested or result["status"] != "complete":
        return result is not None
    return trial.run is not None and (trial.run / "test" / "metrics.json").exists()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DamagedError as error:
        raise PlaceError(f"{path} is damaged: remove its folder, and start the sweep again") from error
