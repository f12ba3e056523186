"""The loop of a sweep: take a trial, train it in a process of its own, write down what became of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmnist.errors import PLACE_CODE, PlaceError, check
from fmnist.files import open_own
from fmnist.runs.folder import LOGS, ended_mark, lock
from fmnist.sweep.space import Plan, Point
from fmnist.sweep.study import ask, is_hopeless
from fmnist.sweep.trials import LOG, Trial, add_trial, clear_drafts, is_done, read_trials, take_open

DEATHS = 5  # of one trial, before it is taken for something else than chance
POLL = 0.5  # seconds
TRIES = 100  # draws of a point that is new


@dataclass
class Sweep:
    """Trains the trials of a plan, beside others that do the same in the same folder.

    Args:
        plan: What is tried.
        folder: Where the trials lie.
        typed: Options of ``fit`` that all trials get.
        test: Whether each trial's best checkpoint is tested.
        tell: Called with each trial that is done.
    """

    plan: Plan
    folder: Path
    typed: Sequence[str]
    test: bool
    tell: Callable[[Trial], None]
    deaths: dict[Path, int] = field(default_factory=dict)

    def run(self) -> None:
        """Works until every trial is done.

        Raises:
            UserError: Something is wrong that is not a trial's own fault; the trial stays open.
        """
        while True:
            taken, left = self._take()
            if taken:
                trial, handle = taken
                try:
                    self._work_on(trial, handle)
                finally:
                    os.close(handle)
            elif not left:
                return
            else:  # with others, who may die
                time.sleep(POLL)

    def _take(self) -> tuple[tuple[Trial, int] | None, bool]:
        """Takes an open trial, or makes one; also tells whether any is left."""
        turn = lock(self.folder, wait=60)
        check(turn is not None, f"{self.folder} is held by another process: stop that one first")
        try:
            trials = read_trials(self.folder)
            taken = take_open(trials, self.test)
            number = trials[-1].number + 1 if trials else 0
            if taken is None and (new := suggest(self.plan, trials, number)) is not None:
                trial = add_trial(self.folder, number, *new)
                handle = lock(trial.path)
                return (None if handle is None else (trial, handle)), True
            return taken, any(not is_done(trial, self.test) for trial in trials)
        finally:
            if turn is not None:
                os.close(turn)

    def _work_on(self, trial: Trial, handle: int) -> None:
        if trial.result() is None:
            begun = trial.run
            code = 0 if begun and ended_mark(begun).exists() else self._train(trial, handle, begun)
            if code == 2 and begun:  # it could not be continued
                code = self._train(trial, handle, None)
            if code == 2:
                trial.finish("failed", reason=trial.last_words())
            elif code == 0 and trial.result() is None:
                trial.finish("complete", value=trial.value(self.plan))
            else:
                self._judge(trial, code)
        if self.test and not is_done(trial, True) and (trial.result() or {}).get("status") == "complete":
            words = self.plan.words(trial.point)
            own = [word for word in words[2:] if word.startswith("--model.network")]
            self._judge(trial, self._call(trial, handle, ["test", *words[:2], *own, "--ckpt_path", str(trial.path)]))
        if is_done(trial, self.test):
            self.tell(trial)

    def _judge(self, trial: Trial, code: int) -> None:
        """Ends the sweep if a process has failed for a reason that others would fail for as well."""
        if code == PLACE_CODE:
            raise PlaceError(trial.last_words())
        self.deaths[trial.path] = self.deaths.get(trial.path, 0) + (code < 0 or code > 128)
        check(self.deaths[trial.path] < DEATHS, f"{trial.path} was killed {DEATHS} times; more memory? see its {LOG}")
        check(code in (0, 130, 143) or code < 0, f"{trial.path} ended with exit code {code}: see its {LOG}")

    def _train(self, trial: Trial, handle: int, run: Path | None) -> int:
        for config in self.plan.config:
            check(Path(config).is_file(), f"{config} is gone: put it back, and start the sweep again")
        clear_drafts(trial.path / LOGS)
        words = ["fit", *self.plan.words(trial.point), *self.typed, f"--trainer.default_root_dir={trial.path}"]
        return self._call(trial, handle, words + (["--ckpt_path", str(run)] if run else []))

    def _call(self, trial: Trial, handle: int, words: Sequence[str]) -> int:
        """Runs a command that holds the trial's lock as long as it lives, and returns its exit code."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.plan.threads))
        environment = os.environ | threads | {"FMNIST_PLACE_CODE": str(PLACE_CODE)}
        inherited = {"pass_fds": (handle,)} if os.name == "posix" else {}
        with open(trial.path / LOG, "a", encoding="utf-8", opener=open_own) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fmnist", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the sweep, which passes it on once
                **inherited,  # type: ignore[call-overload]
            )
        try:
            while process.poll() is None:
                time.sleep(POLL)
                watched = self.plan.pruner != "none" and words[0] == "fit" and trial.result() is None
                if watched and is_hopeless(self.plan, read_trials(self.folder), trial):
                    trial.finish("pruned", value=trial.value(self.plan))
                    process.terminate()
            return int(process.returncode)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()


def suggest(plan: Plan, trials: Sequence[Trial], number: int) -> tuple[Point | list[str], str | None] | None:
    """Chooses what the next trial tries.

    Args:
        plan: What is tried.
        trials: All there are, those included that others are at.
        number: Number of the new trial, which makes its seed.

    Returns:
        A point that no trial has, and its name if it has one; None if there is none left.

    Raises:
        UserError: A named point has changed.
    """
    there = {trial.name: trial.point for trial in trials if trial.name}
    for name, point in plan.named.items():
        known = there.get(name, point)
        check(known == point, f"try.{name} is not what it was: give the new one another name")
        if name not in there:
            return point, name
    known_points = [trial.point for trial in trials if not trial.name]
    if plan.sampler == "grid":
        new = (point for point in plan.grid() if point not in known_points) if plan.space else iter(())
    elif len(known_points) >= plan.trials:
        return None
    elif plan.sampler == "random":
        new = (plan.draw(number, attempt) for attempt in range(TRIES))
    else:
        new = (ask(plan, trials, number, attempt) for attempt in range(TRIES))
    found = next((point for point in new if point not in known_points), None)
    return None if found is None else (found, None)
