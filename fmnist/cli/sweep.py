"""``sweep``: hyperparameter search from one file, which can be stopped, repeated and continued."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from fmnist.cli.compare import format_text, list_runs
from fmnist.cli.console import announce_bundled
from fmnist.cli.options import PlainParser
from fmnist.errors import check
from fmnist.files import find_config, write_whole
from fmnist.runs.folder import LOGS
from fmnist.runs.settings import write_settings
from fmnist.runs.tables import LOGGED
from fmnist.sweep.plan import RESERVED, Plan, Point, as_arguments, read_plan
from fmnist.sweep.run import Sweep
from fmnist.sweep.trials import Trial, open_sweep, read_trials
from fmnist.text import plain

EXAMPLE = "fmnist sweep configs/sweeps/mlp.yaml"
SHOWN = 10
NOISE = "differences below about 0.2 points are within seed noise (measured for mlp-best.yaml)"


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``sweep``, with its one-line description and its arguments."""
    parser = PlainParser("sweep", description, EXAMPLE, " FILE [options of fit, for every trial]")
    parser.add_argument("file", type=_find_file, metavar="FILE", help="The search, in YAML; see docs/sweep.md.")
    parser.add_argument("--test", action="store_true", help="Test the best checkpoint of each trial.")
    args, options = parser.parse_known_args([*argv])
    plan, folder = read_plan(args.file), Path(LOGS) / args.file.stem
    _check_options(plan, options)
    open_sweep(folder, plan.record(options))
    try:
        Sweep(plan, folder, options, args.test, lambda trial: _print_trial(trial, plan)).run()
    finally:
        _print_best(plan, folder, options)


def _find_file(name: str) -> Path:
    path = Path(str(find_config(name, "configs/sweeps")))
    announce_bundled(name, str(path))
    return path


def _check_options(plan: Plan, options: Sequence[str]) -> None:
    """Refuses options and values that ``fit`` does not accept, before anything is trained."""
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
    known = plan.metric in LOGGED or any(settings.trainer.callbacks for settings in parsed)
    check(known, f"metric: no run has {plan.metric}; there are {', '.join(sorted(LOGGED))}")
    held_out = all(settings.data.val_size or settings.data.fold for settings in parsed)
    validated = held_out and all(settings.trainer.limit_val_batches != 0 for settings in parsed)
    needless = plan.sampler != "tpe" or plan.metric.startswith("train/")
    check(validated or needless, f"metric: without validation images no run has {plan.metric}")


def _print_trial(trial: Trial, plan: Plan) -> None:
    result = trial.result() or {}
    value = result.get("value")
    outcome = f"{plan.metric} {value:.4f}" if value is not None else result.get("reason", "complete")
    tried = " ".join(as_arguments(trial.point)[len(plan.config) == 1 :])
    name = f" ({trial.name})" if trial.name else ""
    print(plain(f"{trial.path.name}{name}: {outcome}  {tried}").rstrip(), flush=True)


def _print_best(plan: Plan, folder: Path, options: Sequence[str]) -> None:
    """Prints the first ten, and how to train the best with five seeds."""
    if rows := list_runs(folder):
        print(f"\n{format_text(rows[:SHOWN])}")
    if "data.fold" in plan.search:
        print(f"labels that look wrong: fmnist audit {shlex.quote(str(folder))}")
    results = [(trial, trial.result() or {}) for trial in read_trials(folder, plan)]
    scored = [(result["value"], trial) for trial, result in results if result.get("value") is not None]
    varied = set(plan.search).union(*plan.named.values())
    if len(scored) < 2 or varied & {"seed_everything", "data.fold"}:
        return
    best = (min if plan.mode == "min" else max)(scored, key=lambda pair: pair[0])[1]
    search = {name: [value] for name, value in best.point.items() if name != "config"}
    search["seed_everything"] = [0, 1, 2, 3, 4]
    seeds = {"config": str(Path(best.point["config"]).resolve()), "search": search}
    path = folder / f"{folder.name}-seeds.yaml"
    print(f"best: {best.path}; {NOISE}")
    write_whole(path, write_settings(seeds))
    print(f"with five seeds: fmnist sweep {shlex.join([str(path), '--test', *options])}")
