"""Trials on disk: a folder each, with its options, its run and its result. A sweep has no other state."""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmnist.errors import DamagedError, UserError, check
from fmnist.files import PARTS, read_end, read_json, write_whole
from fmnist.runs.folder import LOGS, lock, newest_run
from fmnist.runs.tables import read_history
from fmnist.sweep.plan import Plan, Point

OPTIONS, RESULT, SWEEP, LOG = "trial.json", "result.json", "sweep.json", "log.txt"


@dataclass(frozen=True)
class Trial:
    """A trial.

    Args:
        path: Its folder, ``trial_N``.
        name: Its name, if its point is one of ``try``.
        point: What it tries.
    """

    path: Path
    name: str | None
    point: Point

    @property
    def number(self) -> int:
        """Counted from 0."""
        return int(self.path.name.removeprefix("trial_"))

    @property
    def run(self) -> Path | None:
        """Its newest run; None before there is one."""
        return newest_run(self.path)

    def result(self) -> dict[str, Any] | None:
        """Reads its ``status``, ``complete`` with a ``value`` or ``failed`` with a ``reason``; None while it is open.

        Raises:
            UserError: The file is damaged.
        """
        path = self.path / RESULT
        if not path.exists():
            return None
        found = _read_json(path)
        value = found.get("value")
        finite = value is None or (isinstance(value, float) and math.isfinite(value))
        if found.get("status") not in ("complete", "failed") or not finite:
            raise _damaged(path)
        return found

    def finish(self, status: str, **more: Any) -> None:
        """Writes its result."""
        write_whole(self.path / RESULT, json.dumps({"status": status, **more}) + "\n")

    def is_done(self, tested: bool) -> bool:
        """Returns whether nothing is left to do; with ``tested`` a complete trial must have been tested."""
        result = self.result()
        if result is None or not tested or result["status"] == "failed":
            return result is not None
        return self.run is not None and (self.run / "test" / "metrics.json").exists()

    def value(self, plan: Plan) -> float | None:
        """Returns the value by which it is compared; None if no epoch has a finite one."""
        try:
            rows = read_history(self.run) if self.run else []
        except ValueError as error:
            raise _damaged(self.path / LOGS) from error
        values = [row[plan.metric] for row in rows if math.isfinite(row.get(plan.metric, math.nan))]
        if plan.epoch == "last":
            return values[-1] if values else None
        return (min if plan.mode == "min" else max)(values, default=None)

    def last_error(self) -> str:
        """Returns the message with which its last command has failed."""
        errors = re.findall("^fmnist: error: (.*)$", read_end(self.path / LOG), re.MULTILINE)
        return str(errors[-1]) if errors else f"see {self.path / LOG}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a sweep, which its processes hold for moments only."""
    handle = lock(folder, wait=60)
    if handle is None:
        raise UserError(f"{folder} is held by another process: stop that one first")
    try:
        yield
    finally:
        os.close(handle)


def open_sweep(folder: Path, record: dict[str, Any]) -> None:
    """Creates the folder of a sweep, or checks that it is that of this sweep.

    Raises:
        UserError: The folder is that of another sweep, or of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("[!.]*")):
        write_whole(folder / SWEEP, json.dumps(record, indent=1))
    check((folder / SWEEP).is_file(), f"{folder} holds something else: give the file of the sweep another name")
    check_unchanged(folder, record)


def check_unchanged(folder: Path, record: dict[str, Any]) -> None:
    """Raises a ``UserError`` if a sweep is not the one that was begun; configurations may have been added."""
    for name, before in _read_json(folder / SWEEP).items():
        changed = f"{folder}: {name} was {before} when the sweep began, and is {record.get(name)} now"
        check(before == record.get(name), f"{changed}; put it back, or give the file of the sweep another name")


def read_trials(folder: Path, plan: Plan) -> list[Trial]:
    """Reads all trials of a sweep, in the order of their numbers.

    Raises:
        UserError: A folder is damaged, or tries what is not in the plan: nobody else may have a sweep run something.
    """
    paths = [file.parent for file in folder.glob(f"trial_*/{OPTIONS}")]
    trials = [_read_trial(path, plan) for path in paths if re.fullmatch(r"trial_\d{1,9}", path.name)]
    return sorted(trials, key=lambda trial: trial.number)


def _read_trial(path: Path, plan: Plan) -> Trial:
    found = _read_json(path / OPTIONS)
    name, point = found.get("name"), found.get("point")
    if not isinstance(name, str | None) or not isinstance(point, dict):
        raise _damaged(path / OPTIONS)
    known = plan.contains(name, point)
    check(known, f"{path} tries what the file of the sweep does not list: remove this folder, or list it again")
    return Trial(path, name, point)


def add_trial(folder: Path, number: int, name: str | None, point: Point) -> Trial:
    """Writes a trial before anything of it runs; the lock of the sweep is held."""
    path = folder / f"trial_{number:03}"
    path.mkdir(exist_ok=True)  # without its options, as a killed process leaves it, a folder is no trial
    write_whole(path / OPTIONS, json.dumps({"name": name, "point": point}) + "\n")
    return Trial(path, name, point)


def claim_trial(trials: Sequence[Trial], tested: bool) -> tuple[Trial, int] | None:
    """Claims the first trial that is not done and that no other process works on.

    Args:
        trials: All trials.
        tested: Whether a complete trial must have been tested.

    Returns:
        The trial and the handle of its lock; None if there is none.
    """
    for trial in trials:
        if (handle := lock(trial.path)) is None:
            continue
        if not trial.is_done(tested):
            remove_leftovers(trial.path)
            return trial, handle
        os.close(handle)
    return None


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process has not completed in a folder that is locked: files, and a run."""
    for part in folder.rglob(PARTS):
        part.unlink()
    for draft in folder.glob(f"{LOGS}/.{'?' * 32}"):
        shutil.rmtree(draft)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DamagedError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: move {path.parent} away, and start the sweep again")
