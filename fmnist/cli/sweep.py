"""``sweep``: hyperparameter search from one file, which can be stopped, repeated and continued."""

import shlex
import signal
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from fmnist.cli.compare import compare as read_rows
from fmnist.cli.compare import write
from fmnist.cli.plain import PlainParser
from fmnist.errors import check
from fmnist.files import expand, write_whole
from fmnist.runs.folder import LOGS
from fmnist.sweep.plan import RESERVED, Plan, Point, as_arguments, read_plan
from fmnist.sweep.run import Sweep
from fmnist.sweep.trials import Trial, open_sweep, read_trials
from fmnist.text import plain

EXAMPLE = "fmnist sweep configs/sweeps/mlp.yaml"
METRICS = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "acc")} | {"val/ece"}
SHOWN = 10
NOISE = "differences below about 0.2 points are within seed noise (measured for mlp-best.yaml)"


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``sweep``, described in a few words, with its arguments."""
    parser = PlainParser("sweep", description, EXAMPLE, " FILE [options of fit, for every trial]")
    parser.add_argument("file", type=expand, metavar="FILE", help="What is tried, in YAML; see docs/sweep.md.")
    parser.add_argument("--test", action="store_true", help="Test the best checkpoint of each trial.")
    args, options = parser.parse_known_args([*argv])
    plan, folder = read_plan(args.file), Path(LOGS) / args.file.stem
    _check_options(plan, options)
    _stop_on_signals()
    open_sweep(folder, plan.record(options))
    done = sum(trial.is_done(args.test) for trial in read_trials(folder, plan))
    try:
        with tqdm(total=_count(plan), desc=folder.name, unit="trial", disable=not sys.stderr.isatty()) as bar:
            bar.update(done)
            Sweep(plan, folder, options, args.test, lambda trial: _report(trial, plan, bar)).run()
    finally:
        _show(plan, folder, options)


def _stop_on_signals() -> None:
    """Makes a sweep stop its run when it is terminated or its terminal is closed, but for ``nohup``."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(143))


def _check_options(plan: Plan, options: Sequence[str]) -> None:
    """Refuses, before anything is trained, options and values that ``fit`` does not accept."""
    from fmnist.cli.command import parse_fit

    for name in RESERVED[1:]:
        given = any(option.partition("=")[0] == f"--{name}" for option in options)
        check(not given, f"--{name}: the sweep sets this itself")
    values = {
        name: space if isinstance(space, list) else [space.low, space.high] for name, space in plan.search.items()
    }
    first = {name: several[0] for name, several in values.items()}
    points: list[Point] = [*plan.named.values()]
    points += [{**first, name: value} for name, several in values.items() for value in several]
    parsed = parse_fit([[*as_arguments(point), *options] for point in points])
    known = plan.metric in METRICS or any(settings.trainer.callbacks for settings in parsed)
    check(known, f"metric: no run has {plan.metric}; there are {', '.join(sorted(METRICS))}")
    held_out = all(settings.data.val_size or settings.data.fold for settings in parsed)
    validated = held_out and all(settings.trainer.limit_val_batches != 0 for settings in parsed)
    needless = plan.sampler != "tpe" or plan.metric.startswith("train/")
    check(validated or needless, f"metric: without validation images no run has {plan.metric}")


def _count(plan: Plan) -> int:
    sizes = [len(space) for space in plan.search.values() if isinstance(space, list)]
    return len(plan.named) + (plan.trials if plan.sampler != "grid" else prod(sizes) if sizes else 0)


def _report(trial: Trial, plan: Plan, bar: Any) -> None:
    """Prints a trial that is done."""
    result = trial.result() or {}
    value = result.get("value")
    outcome = f"{plan.metric} {value:.4f}" if value is not None else result.get("reason", "complete")
    tried = " ".join(as_arguments(trial.point)[len(plan.config) == 1 :])
    bar.update()
    line = plain(f"{trial.path.name}{f' ({trial.name})' if trial.name else ''}: {outcome}  {tried}").rstrip()
    bar.write(line) if not bar.disable else print(line, flush=True)


def _show(plan: Plan, folder: Path, options: Sequence[str]) -> None:
    """Prints the first ten, and how to train the best with five seeds."""
    rows = read_rows(folder)
    if rows:
        print(f"\n{write(rows[:SHOWN], 'text')}")
    if "data.fold" in plan.search:
        print(f"labels that look wrong: python -m fmnist audit {shlex.quote(str(folder))}")
    results = [(trial, trial.result() or {}) for trial in read_trials(folder, plan)]
    scored = [(result["value"], trial) for trial, result in results if result.get("value") is not None]
    if len(scored) < 2 or {"seed_everything", "data.fold"} & plan.search.keys():
        return
    best = (min if plan.mode == "min" else max)(scored, key=lambda pair: pair[0])[1]
    search = {name: [value] for name, value in best.point.items() if name != "config"}
    search["seed_everything"] = [0, 1, 2, 3, 4]
    seeds = {"config": str(Path(best.point["config"]).resolve()), "search": search}
    path = folder / f"{folder.name}-seeds.yaml"
    write_whole(path, yaml.safe_dump(seeds, sort_keys=False))
    print(f"best: {best.path}; {NOISE}")
    print(f"with five seeds: python -m fmnist sweep {shlex.join([str(path), '--test', *options])}")
