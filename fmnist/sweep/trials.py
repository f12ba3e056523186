"""Trials on disk: a folder for each, with its point, its run and its result. A sweep has no other state."""

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
from fmnist.files import read_end, read_json, write_whole
from fmnist.runs.folder import LOGS, RESULT, TRIAL, lock, newest_run, remove_parts
from fmnist.runs.tables import read_history
from fmnist.sweep.plan import Plan, Point

SWEEP, LOG = "sweep.json", "log.txt"


@dataclass(frozen=True)
class Trial:
    """One point of a sweep.

    Args:
        path: Its folder, ``trial_N``.
        name: Its name, if its point is one of ``try``.
        point: Its options.
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
        """Its newest run, if there is one."""
        return newest_run(self.path)

    def result(self) -> dict[str, Any] | None:
        """Returns its ``status``, ``complete`` with a ``value`` or ``failed`` with a ``reason``; None while it is open.

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
            raise _damaged_error(path)
        return found

    def finish(self, status: str, **more: Any) -> None:
        """Writes its result."""
        write_whole(self.path / RESULT, json.dumps({"status": status, **more}) + "\n")

    def is_done(self, tested: bool) -> bool:
        """Returns whether nothing is left to do; with ``tested``, a complete trial must have been tested."""
        result = self.result()
        if result is None or not tested or result["status"] == "failed":
            return result is not None
        return self.run is not None and (self.run / "test" / "metrics.json").exists()

    def value(self, plan: Plan) -> float | None:
        """Returns the metric by which it is compared; None if it is finite in no epoch."""
        try:
            rows = read_history(self.run) if self.run else []
        except ValueError as error:
            raise _damaged_error(self.path / LOGS) from error
        values = [row[plan.metric] for row in rows if math.isfinite(row.get(plan.metric, math.nan))]
        if plan.epoch == "last":
            return values[-1] if values else None
        return (min if plan.mode == "min" else max)(values, default=None)

    def last_error(self) -> str:
        """Returns the error message of its last command."""
        errors = re.findall("^fmnist: error: (.*)$", read_end(self.path / LOG), re.MULTILINE)
        return str(errors[-1]) if errors else f"see {self.path / LOG}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a sweep, as each of its processes does for moments."""
    handle = lock(folder, wait=60)
    if handle is None:
        raise UserError(f"{folder} is locked by another process: stop that one first")
    try:
        yield
    finally:
        os.close(handle)


def open_sweep(folder: Path, record: dict[str, Any]) -> None:
    """Creates the folder of a sweep, or checks that it belongs to this sweep.

    Raises:
        UserError: It belongs to another sweep, or to something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("[!.]*")):
        write_whole(folder / SWEEP, json.dumps(record, indent=1))
    check((folder / SWEEP).is_file(), f"{folder} holds something else: give the file of the sweep another name")
    check_unchanged(folder, record)


def check_unchanged(folder: Path, record: dict[str, Any]) -> None:
    """Raises a ``UserError`` if the settings of a sweep differ from those it began with; added ones do not count."""
    for name, before in _read_json(folder / SWEEP).items():
        changed = f"{folder}: {name} was {before} when the sweep began, and is {record.get(name)} now"
        check(before == record.get(name), f"{changed}; put it back, or give the file of the sweep another name")


def read_trials(folder: Path, plan: Plan) -> list[Trial]:
    """Returns all trials of a sweep by their numbers.

    Raises:
        UserError: A folder is damaged, or its point is not in the plan: a stranger's trial must not run anything.
    """
    paths = [file.parent for file in folder.glob(f"trial_*/{TRIAL}")]
    trials = [_read_trial(path, plan) for path in paths if re.fullmatch(r"trial_\d{1,9}", path.name)]
    return sorted(trials, key=lambda trial: trial.number)


def _read_trial(path: Path, plan: Plan) -> Trial:
    found = _read_json(path / TRIAL)
    name, point = found.get("name"), found.get("point")
    if not isinstance(name, str | None) or not isinstance(point, dict):
        raise _damaged_error(path / TRIAL)
    known = plan.contains(name, point)
    check(known, f"{path} has options that the file of the sweep does not list: remove this folder, or list it again")
    return Trial(path, name, point)


def add_trial(folder: Path, number: int, name: str | None, point: Point) -> Trial:
    """Writes a trial before anything of it runs; the sweep must be locked."""
    path = folder / f"trial_{number:03}"
    path.mkdir(exist_ok=True)  # a killed process may have left it without the file, which makes it a trial
    write_whole(path / TRIAL, json.dumps({"name": name, "point": point}) + "\n")
    return Trial(path, name, point)


def claim_trial(trials: Sequence[Trial], tested: bool) -> tuple[Trial, int] | None:
    """Locks the first trial that is not done and that no other process works on; see ``Trial.is_done``.

    Returns:
        The trial and the handle of its lock; None if there is none.
    """
    for trial in trials:
        if (handle := lock(trial.path)) is None:
            continue
        if not trial.is_done(tested):
            _remove_leftovers(trial.path)
            return trial, handle
        os.close(handle)
    return None


def _remove_leftovers(folder: Path) -> None:
    """Removes half-written files and runs of a killed process; the folder must be locked."""
    remove_parts(folder)
    for draft in folder.glob(f"{LOGS}/.{'?' * 32}"):
        shutil.rmtree(draft)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DamagedError as error:
        raise _damaged_error(path) from error


def _damaged_error(path: Path) -> UserError:
    return UserError(f"{path} is damaged: move {path.parent} away, and start the sweep again")
