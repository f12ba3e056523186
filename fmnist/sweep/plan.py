"""The YAML file of a sweep: the search space, and how points are chosen and compared."""

import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from fmnist.errors import UserError, check
from fmnist.files import digest_file, expand, find_config
from fmnist.names import check_installed
from fmnist.runs.settings import read_settings

Point = dict[str, Any]  # options of fit and their values, the configuration first
Space = Any  # a list of values, or Optuna's FloatDistribution or IntDistribution, which a grid does not need

RESERVED = ("config", "ckpt_path", "name", "trainer.default_root_dir")  # options that the sweep itself passes to fit
CHOICES = {"sampler": ("grid", "random", "tpe"), "mode": ("max", "min"), "epoch": ("best", "last")}
LEAST = {"trials": 1, "threads": 1, "seed": 0}
KEYS = ("config", "search", "try", "metric", *CHOICES, *LEAST)


@dataclass(frozen=True)
class Plan:
    """A sweep as its file describes it.

    Args:
        config: Paths of the configurations; all of them are searched, the named points use the first.
        search: A list of values or a range for each option of ``fit``.
        named: Points that are trained first, by name.
        sampler: ``grid`` (every combination), ``random``, or Optuna's ``tpe``.
        trials: Number of sampled points, without the named ones; a grid ignores it.
        metric: Column of ``metrics.csv`` by which trials are compared.
        mode: ``max`` or ``min``.
        epoch: The epoch of a trial that counts, ``best`` or ``last``.
        seed: Seed of the sampler.
        threads: Threads of each run.
    """

    config: list[str]
    search: Mapping[str, Space]
    named: Mapping[str, Point]
    sampler: str = "grid"
    trials: int = 20
    metric: str = "val/acc"
    mode: str = "max"
    epoch: str = "best"
    seed: int = 0
    threads: int = 1

    def grid(self) -> Iterator[Point]:
        """Yields every combination of values; nothing if no option is searched."""
        if self.search:
            every = itertools.product(*self.search.values())
            yield from (dict(zip(self.search, values, strict=True)) for values in every)

    def contains(self, name: str | None, point: Point) -> bool:
        """Returns whether a point is the one of this name or, without a name, is in the search space."""
        if name is not None:
            return self.named.get(name) == point
        return point.keys() == self.search.keys() and all(_contains(self.search[key], point[key]) for key in point)

    def record(self, options: Sequence[str]) -> dict[str, Any]:
        """Returns the settings that must stay the same when the sweep is continued, with the options of all trials."""
        fixed = {name: getattr(self, name) for name in ("sampler", "metric", "mode", "epoch", "seed", "threads")}
        digests = {f"configuration {path}": digest_file(Path(path))[:16] for path in self.config}
        return {**fixed, "options": [*options], **digests}


def as_arguments(point: Point) -> list[str]:
    """Returns a point as arguments of ``fit``, a class before its settings, which it would reset."""
    names = sorted(point, key=lambda name: name.count("."))
    return [f"--{name}={value if isinstance(value := point[name], str) else json.dumps(value)}" for name in names]


def read_plan(path: Path) -> Plan:
    """Reads the file of a sweep.

    Raises:
        OSError: It cannot be read.
        UserError: It is not the file of a sweep, or has a setting that is not accepted.
    """
    given = _read_yaml(path)
    unknown = [key for key in given if key not in KEYS]
    check(not unknown, f"{path}: {', '.join(unknown)}: a sweep has {', '.join(KEYS)}")
    configs = _read_configs(given.pop("config", None), path)
    spaces, points = (given.pop(key, None) or {} for key in ("search", "try"))
    check(isinstance(spaces, dict) and isinstance(points, dict), f"{path}: search and try have names in them")
    check(bool(spaces or points or configs[1:]), f"{path}: there is nothing to try: give search or try")
    for name, point in points.items():
        right = isinstance(point, dict | None)
        check(right, f"try.{name} is {point}: give options and values, such as {{data.shift: 0}}")
    for name in itertools.chain(spaces, *(point or {} for point in points.values())):
        check(name not in RESERVED, f"{path}: {name} cannot be searched: the sweep sets it itself")
    search = {"config": configs} if spaces or configs[1:] else {}
    search |= {name: _read_space(name, space) for name, space in spaces.items()}
    named = {normalize("NFC", name): {"config": configs[0], **(point or {})} for name, point in points.items()}
    given.setdefault("mode", "max" if str(given.get("metric", "acc")).endswith("acc") else "min")
    plan = Plan(configs, search, named, **given)
    _check_values(plan, path)
    return plan


def _read_yaml(path: Path) -> dict[str, Any]:
    """Reads YAML as JSON values, since trials are stored as JSON."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(read_settings(path), allow_nan=False, default=str))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not the file of a sweep: {' '.join(str(error).split())[:200]}") from error
    return found


def _read_configs(given: Any, path: Path) -> list[str]:
    configs = given if isinstance(given, list) else [given]
    paths = bool(configs) and all(isinstance(config, str) for config in configs)
    check(paths, f"{path}: config must be the path of a configuration, or a list of them")
    found = []
    for config in configs:
        here = os.path.normpath(path.parent / expand(config))
        found.append(here if Path(here).is_file() else str(find_config(config)))
        check(Path(found[-1]).is_file(), f"{path}: there is no configuration {here}")
    return found


def _read_space(name: str, given: Any) -> Space:
    if isinstance(given, dict):
        return _read_range(name, given)
    check(isinstance(given, list) and bool(given), f"search.{name} is {given}: give a list, or low and high")
    check(all(given.count(value) == 1 for value in given), f"search.{name}: it has a value twice")
    return list(given)


def _read_range(name: str, given: dict[str, Any]) -> Space:
    """Returns a range of integers if bounds and step are integers, else of floats."""
    check_installed(f"the range of search.{name}", ("optuna",), "sweep")
    from optuna.distributions import FloatDistribution, IntDistribution

    kinds = {type(value) for key, value in given.items() if key != "log"}
    right = {"low", "high"} <= given.keys() <= {"low", "high", "log", "step"} and kinds <= {int, float}
    right = right and isinstance(given.get("log", False), bool)
    check(right, f"search.{name} is {given}: give the numbers low and high, and step: NUMBER or log: true")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a last step that ends below high
            return IntDistribution(**given) if kinds == {int} else FloatDistribution(**given)
    except (ValueError, OverflowError) as error:
        raise UserError(f"search.{name}: {error}") from error


def _contains(space: Space, value: Any) -> bool:
    if isinstance(space, list):
        return value in space
    from optuna.trial import create_trial

    try:
        create_trial(value=0.0, params={"x": value}, distributions={"x": space})  # raises for a value outside
    except (ValueError, OverflowError):
        return False
    return type(value) in (int, float)


def _check_values(plan: Plan, path: Path) -> None:
    for name, choices in CHOICES.items():
        value = getattr(plan, name)
        check(value in choices, f"{path}: {name} is {value}: choose from {', '.join(choices)}")
    for name, least in LEAST.items():
        value = getattr(plan, name)
        check(type(value) is int and value >= least, f"{path}: {name} is {value}: it must be a whole number >= {least}")
    check(isinstance(plan.metric, str), f"{path}: metric must be a column of metrics.csv, such as val/loss")
    if plan.sampler == "grid":
        ranges = [name for name, space in plan.search.items() if not isinstance(space, list)]
        check(not ranges, f"{path}: search.{''.join(ranges[:1])} is a range: a grid needs a list of values")
    else:
        check_installed(f"sampler {plan.sampler}", ("optuna",), "sweep")
        check(bool(plan.search), f"{path}: sampler {plan.sampler} needs search, options to choose values of")
