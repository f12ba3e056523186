"""The loop of a sweep: claim a trial, train it in its own process, write its result."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmnist.errors import SETUP_CODE, SetupError, check
from fmnist.files import open_no_follow
from fmnist.runs.folder import ended_mark
from fmnist.seeds import mix_seeds
from fmnist.sweep.plan import Plan, Point, Space, as_arguments
from fmnist.sweep.trials import LOG, Trial, add_trial, check_unchanged, claim_trial, locked, read_trials

MAX_KILLS = 5  # of one trial, after which it is not chance
POLL = 0.5  # seconds
MAX_DRAWS = 100  # in search of a new point


@dataclass
class Sweep:
    """Trains the trials of a plan; other processes may do the same in the same folder.

    Args:
        plan: The search.
        folder: Folder of the trials.
        options: Options of ``fit`` for all trials.
        test: Whether to test the best checkpoint of each trial.
        report: Called with each trial that is done.
    """

    plan: Plan
    folder: Path
    options: Sequence[str]
    test: bool
    report: Callable[[Trial], None]
    kills: dict[Path, int] = field(default_factory=dict)

    def run(self) -> None:
        """Works until every trial is done.

        Raises:
            UserError: Something is wrong that is not the fault of a trial's options; the trial stays open.
        """
        while True:
            with locked(self.folder):
                check_unchanged(self.folder, self.plan.record(self.options))
                trials = read_trials(self.folder, self.plan)
                claimed = claim_trial(trials, self.test) or self._new_trial(trials)
            if claimed:
                trial, handle = claimed
                try:
                    self._work_on(trial, handle)
                finally:
                    os.close(handle)
            elif all(trial.is_done(self.test) for trial in trials):
                return
            else:
                time.sleep(POLL)  # other processes train the rest, and may be killed

    def _new_trial(self, trials: list[Trial]) -> tuple[Trial, int] | None:
        number = trials[-1].number + 1 if trials else 0
        if (point := next_point(self.plan, trials, number)) is None:
            return None
        trials.append(add_trial(self.folder, number, *point))
        return claim_trial(trials, self.test)

    def _work_on(self, trial: Trial, handle: int) -> None:
        if trial.result() is None:
            code = self._fit(trial, handle)
            if code == 0:
                trial.finish("complete", value=trial.value(self.plan))
            elif code == 2:
                trial.finish("failed", reason=trial.last_error())
        if trial.result() and not trial.is_done(self.test):
            settings = f"--config={trial.run}/config.yaml"  # where the data is
            code = self._call(trial, handle, "test", settings, "--ckpt_path", str(trial.path))
            check(code != 2, f"{trial.path}: {trial.last_error()}")
        if trial.is_done(self.test):
            self.report(trial)

    def _fit(self, trial: Trial, handle: int) -> int:
        root, run = f"--trainer.default_root_dir={trial.path}", trial.run
        options = [*as_arguments(trial.point), *self.options, root]
        if run and ended_mark(run).exists():  # killed before the result was written
            return 0
        if run and (code := self._call(trial, handle, "fit", root, "--ckpt_path", str(run))) != 2:
            return code  # with the settings of the run, which has those of the trial
        return self._call(trial, handle, "fit", *options)  # also if its run cannot be continued

    def _call(self, trial: Trial, handle: int, command: str, *arguments: str) -> int:
        """Runs a command in a process, which inherits the lock of the trial.

        Returns:
            0, 2 if an option of the trial is at fault, or the exit code of a process that was stopped or killed.

        Raises:
            SetupError: The data, a folder or the disk is at fault.
            UserError: The command has ended in another way, or was killed too often.
        """
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.plan.threads))
        with open(trial.path / LOG, "a", encoding="utf-8", opener=open_no_follow) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fmnist.sweep", command, *arguments],
                env=os.environ | threads,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the sweep only, which then stops the command
                pass_fds=(handle,) if os.name == "posix" else (),
            )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code == SETUP_CODE:
            raise SetupError(trial.last_error())
        killed = code in (130, 143) or code < 0
        check(killed or code in (0, 2), f"{trial.path}: {command} ended with exit code {code}: see its {LOG}")
        self.kills[trial.path] = self.kills.get(trial.path, 0) + killed
        often = self.kills[trial.path] >= MAX_KILLS
        check(not often, f"{trial.path} was killed {MAX_KILLS} times: is memory short? see its {LOG}")
        return code


def next_point(plan: Plan, trials: Sequence[Trial], number: int) -> tuple[str | None, Point] | None:
    """Chooses the point of the next trial.

    Args:
        plan: The search.
        trials: All trials, also those of other processes.
        number: Number of the new trial, by which points are drawn.

    Returns:
        A point that no trial has, with its name if it has one; None if none is left.
    """
    names = {trial.name for trial in trials}
    for name, point in plan.named.items():
        if name not in names:
            return name, point
    known = [trial.point for trial in trials if trial.name is None]
    if plan.sampler != "grid" and len(known) >= plan.trials:
        return None
    points = plan.grid() if plan.sampler == "grid" else _sample(plan, trials, number)
    return next(((None, point) for point in points if point not in known), None)


def _sample(plan: Plan, trials: Sequence[Trial], number: int) -> Iterator[Point]:
    """Draws points from an Optuna study, which is rebuilt in memory from the trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = optuna.samplers.TPESampler if plan.sampler == "tpe" else optuna.samplers.RandomSampler
    sampler = kind(seed=mix_seeds(plan.seed, number) % 2**32)
    study = optuna.create_study(direction="maximize" if plan.mode == "max" else "minimize", sampler=sampler)
    lists = {name: space for name, space in plan.search.items() if isinstance(space, list)}
    indices = {name: optuna.distributions.CategoricalDistribution(range(len(space))) for name, space in lists.items()}
    spaces = {**plan.search, **indices}  # Optuna sees the index of a listed value, which may be a list itself
    for trial in trials:
        if trial.name is None and (value := (trial.result() or {}).get("value")) is not None:
            params = trial.point | {name: space.index(trial.point[name]) for name, space in lists.items()}
            study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=spaces))
    for _ in range(MAX_DRAWS):
        yield {name: _decode(plan.search[name], drawn) for name, drawn in study.ask(spaces).params.items()}


def _decode(space: Space, drawn: Any) -> Any:
    """Returns the value of an option; a float is rounded to its step, or to four digits."""
    if isinstance(space, list):
        return space[drawn]
    if not isinstance(drawn, float):
        return drawn
    return min(space.high, max(space.low, float(f"{drawn:.4g}" if space.step is None else f"{drawn:.12g}")))
