"""Many trainings from one file, which survive anything."""

import shlex
import signal
import sys
from collections.abc import Sequence
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
from fmnist.sweep.space import Plan, read_plan
from fmnist.sweep.sweep import Sweep
from fmnist.sweep.trials import Trial, open_sweep, read_trials
from fmnist.text import plain

EXAMPLE = "fmnist sweep configs/sweeps/mlp.yaml"
METRICS = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "acc")} | {"val/ece"}
SHOWN = 10
NOISE = "with nothing but the seed changed, runs of mlp-best.yaml differ by 0.19 points: less than that is chance"


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``sweep``, described in a few words, with what was typed after it."""
    parser = PlainParser("sweep", description, EXAMPLE, " FILE [options of fit, for every trial]")
    parser.add_argument("file", type=expand, metavar="FILE", help="What is tried, in YAML; see docs/sweep.md.")
    parser.add_argument("--test", action="store_true", help="Test the best checkpoint of each trial.")
    options, typed = parser.parse_known_args([*argv])
    plan, folder = read_plan(options.file), Path(LOGS) / options.file.stem
    _check_options(plan, typed)
    open_sweep(folder, plan, typed, options.file)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tqdm(total=_count(plan), desc=options.file.stem, unit="trial", disable=not sys.stderr.isatty()) as bar:
            bar.update(sum(trial.result() is not None for trial in read_trials(folder)))
            Sweep(plan, folder, typed, options.test, lambda trial: _tell(trial, plan, bar)).run()
    finally:
        _show(plan, folder, typed)


def _check_options(plan: Plan, typed: Sequence[str]) -> None:
    """Refuses, before anything is trained, options and values that ``fit`` does not know."""
    from fmnist.cli.command import parse_fit

    points = [{}, *plan.named.values(), *({"config": config} for config in plan.config)]
    for name, space in plan.search.items():
        points += [{name: value} for value in (space if isinstance(space, list) else (space.low, space.high))]
    parsed = parse_fit([[*plan.words(point), *typed] for point in points])
    known = plan.metric in METRICS or any(settings.trainer.callbacks for settings in parsed)
    check(known, f"metric: no run has {plan.metric}; there are {', '.join(sorted(METRICS))}")
    held_out = all(settings.data.val_size or settings.data.fold for settings in parsed)
    validated = held_out and all(settings.trainer.limit_val_batches != 0 for settings in parsed)
    needed = plan.sampler == "tpe" or plan.pruner != "none"
    measured = validated or plan.metric.startswith("train/")
    check(measured or not needed, f"metric: without validation images no run has {plan.metric}")


def _count(plan: Plan) -> int:
    return len(plan.named) + (sum(bool(point) for point in plan.grid()) if plan.sampler == "grid" else plan.trials)


def _tell(trial: Trial, plan: Plan, bar: Any) -> None:
    result = trial.result() or {}
    what = " ".join(plan.words(trial.point)[2:]) or (plan.words(trial.point)[1])
    value = result.get("value")
    became = f"{plan.metric} {value:.4f}" if value is not None else result.get("reason", result["status"])
    bar.update()
    line = plain(f"{trial.path.name}{f' ({trial.name})' if trial.name else ''}: {became}  {what}")
    bar.write(line) if not bar.disable else print(line, flush=True)


def _show(plan: Plan, folder: Path, typed: Sequence[str]) -> None:
    """Prints the first ten, and how to train the winner with five seeds."""
    rows = read_rows(folder)
    if rows:
        print(f"\n{write(rows[:SHOWN], 'text')}")
    results = [(trial, trial.result() or {}) for trial in read_trials(folder)]
    values = [(result["value"], trial) for trial, result in results if result.get("status") == "complete"]
    values = [(value, trial) for value, trial in values if value is not None]
    if "data.fold" in plan.space:
        print(f"labels that look wrong: python -m fmnist audit {shlex.quote(str(folder))}")
    if len(values) < 2 or {"seed_everything", "data.fold"} & plan.space.keys():
        return
    best = (min if plan.mode == "min" else max)(values, key=lambda pair: pair[0])[1]
    words = [*plan.words(best.point), *typed]
    path = folder / f"{folder.name}-seeds.yaml"
    content = {"config": str(Path(words[1]).resolve()), "search": {"seed_everything": [0, 1, 2, 3, 4]}}
    write_whole(path, yaml.safe_dump(content, sort_keys=False))
    print(f"best: {best.path}; {NOISE}")
    print(f"with five seeds: python -m fmnist sweep {shlex.join([str(path), '--test', *words[2:]])}")
