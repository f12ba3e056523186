"""What a sweep tries: its YAML, and the points that come of it."""

import itertools
import json
import math
import os
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from fmnist.errors import UserError, check
from fmnist.files import digest_file
from fmnist.runs.settings import read_settings
from fmnist.seeds import mix_seeds

Point = dict[str, Any]  # options of fit and their values; ``config`` is the configuration
Sampler = Literal["tpe", "random", "grid"]
RESERVED = ("ckpt_path", "name", "trainer.default_root_dir")  # options that a sweep gives by itself
AGAIN = "put it back, or copy the file: another name is another sweep"


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both bounds and the step are.

    Args:
        low: The smallest.
        high: The largest.
        log: Whether equal ratios are equally likely, instead of equal differences.
        step: Distance of neighbours, counted from ``low``.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def check(self, name: str) -> None:
        """Raises a ``UserError`` if nothing lies in the range."""
        numbers: list[Any] = [self.low, self.high, *([] if self.step is None else [self.step])]
        right = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        check(right and self.low <= self.high, f"search.{name}: low and high are numbers, and low is not above high")
        check(
            not self.log or (self.low > 0 and self.step is None), f"search.{name}: log needs low above 0, and no step"
        )
        check(self.step is None or self.step > 0, f"search.{name}: step must be above 0")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    def values(self) -> list[float]:
        """Returns all numbers of a range with steps."""
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + index * step if self.whole else round(self.low + index * step, 12) for index in range(count)]

    def draw(self, rng: random.Random) -> float:
        """Draws a number."""
        if self.step or (self.whole and not self.log):
            return rng.choice(self.values())
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = low + rng.random() * (high - low)
        return self.round(math.exp(number) if self.log else number)

    def round(self, number: float) -> float:
        """Returns a number of the range that can be read: whole, a step, or of four digits."""
        if self.whole or self.step:
            return number if self.step else round(min(self.high, max(self.low, number)))
        return min(self.high, max(self.low, float(f"{number:.4g}")))


@dataclass(frozen=True)
class Plan:
    """A sweep as its file describes it.

    Args:
        config: Configurations that are crossed with ``search``.
        search: A range or a list of values for each option.
        named: Points that are tried first, by their names.
        sampler: How points are chosen.
        trials: Points that are sampled, beside the named ones; a grid has its own number.
        metric: Column of ``metrics.csv`` by which trials are judged.
        mode: Whether less or more of it is better.
        read: Which epochs count: the best, the last, or the mean of the last N.
        seed: Seed of the sampler.
        threads: Threads of each training.
        pruner: ``median`` stops trials that are worse than half of the others at the same epoch.
    """

    config: list[str]
    search: Mapping[str, Range | list[Any]] = field(default_factory=dict)
    named: Mapping[str, Point | list[str]] = field(default_factory=dict)
    sampler: Sampler = "grid"
    trials: int = 20
    metric: str = "val/acc"
    mode: Literal["min", "max"] = "max"
    read: str | int = "best"
    seed: int = 0
    threads: int = 1
    pruner: Literal["none", "median"] = "none"

    def grid(self) -> Iterator[Point]:
        """Yields every combination."""
        every = {name: space.values() if isinstance(space, Range) else space for name, space in self.space.items()}
        yield from (dict(zip(every, values, strict=True)) for values in itertools.product(*every.values()))

    @property
    def space(self) -> dict[str, Range | list[Any]]:
        """All options that are searched, the configuration among them if there are several."""
        return {**({"config": self.config} if len(self.config) > 1 else {}), **self.search}

    def draw(self, *numbers: int) -> Point:
        """Draws a point with a seed mixed of the sweep's and these numbers."""
        rng = random.Random(mix_seeds(self.seed, *numbers))
        return {name: s.draw(rng) if isinstance(s, Range) else rng.choice(s) for name, s in self.space.items()}

    def words(self, point: Point | list[str]) -> list[str]:
        """Writes a point as words after ``fit``."""
        if isinstance(point, list):
            return ["--config", self.config[0], *point]
        given = [f"--{name}={as_text(value)}" for name, value in point.items() if name != "config"]
        return ["--config", str(point.get("config", self.config[0])), *given]

    def record(self, typed: Sequence[str]) -> dict[str, Any]:
        """Returns what must stay as it is while the sweep goes on, as plain values."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("trials", "named", "config")}
        return {**plain, "config": {path: digest_file(Path(path)) for path in self.config}, "options": [*typed]}


def as_text(value: Any) -> str:
    """Writes a value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def read_plan(path: Path) -> Plan:
    """Reads the file of a sweep.

    Raises:
        UserError: It cannot be read, or asks for something that cannot be tried.
    """
    try:
        given = read_settings(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} is not the file of a sweep: {' '.join(str(reason).split())[:200]}") from error
    given["named"] = given.pop("try", None) or {}
    unknown = given.keys() - Plan.__dataclass_fields__.keys()
    check(not unknown, f"{path}: {', '.join(map(str, unknown))}: a sweep has config, search, try, sampler, trials, "
          "metric, mode, read, seed, threads and pruner")  # fmt: skip
    configs = given.get("config")
    configs = configs if isinstance(configs, list) else [configs]
    check(all(isinstance(config, str) for config in configs), f"{path}: config names the configuration to begin with")
    given["config"] = [os.path.normpath(path.parent / config) for config in configs]
    for config in given["config"]:
        check(Path(config).is_file(), f"{path}: there is no configuration {config}")
    searched = given.get("search") or {}
    check(isinstance(searched, dict) and isinstance(given["named"], dict), f"{path}: search and try have names in them")
    given["search"] = {str(name): _read_space(str(name), space) for name, space in searched.items()}
    given["named"] = {str(name): _read_named(str(name), point) for name, point in given["named"].items()}
    given.setdefault("mode", "max" if str(given.get("metric", "acc")).endswith("acc") else "min")
    plan = Plan(**given)
    _check_values(plan, path)
    return plan


def _check_values(plan: Plan, path: Path) -> None:
    for name, kind in Plan.__annotations__.items():
        value, choices = getattr(plan, name), [choice for choice in get_args(kind) if isinstance(choice, str)]
        check(not choices or value in choices, f"{path}: {name} is {value}: choose from {', '.join(choices)}")
    for name in ("trials", "seed", "threads"):
        value = getattr(plan, name)
        right = isinstance(value, int) and value >= (name != "seed")
        check(right, f"{path}: {name} is {value}: it must be a whole number, at least {int(name != 'seed')}")
    whole = isinstance(plan.read, int) and plan.read > 0
    check(whole or plan.read in ("best", "last"), f"{path}: read is best, last, or a number of epochs, not {plan.read}")
    if plan.sampler == "grid":
        endless = [n for n, s in plan.search.items() if isinstance(s, Range) and not s.step and not s.whole]
        check(not endless, f"{path}: search.{''.join(endless[:1])} has no end in a grid: give a list, or a step")


def _read_space(name: str, given: Any) -> Range | list[Any]:
    check(name not in RESERVED, f"search.{name}: this is given by the sweep itself")
    if isinstance(given, dict) and {"low", "high"} <= given.keys() <= {*Range.__dataclass_fields__}:
        space = Range(**given)
        space.check(name)
        return space
    check(isinstance(given, list), f"search.{name} is {given}: give a list, or low and high, with log or step")
    check(len(given) > 0, f"search.{name}: an empty list leaves nothing to try")
    texts = [as_text(value) for value in given]
    check(len({*texts}) == len(texts), f"search.{name}: it has a value twice")
    return cast(list[Any], given)


def _read_named(name: str, given: Any) -> Point | list[str]:
    try:
        point = shlex.split(given) if isinstance(given, str) else {} if given is None else given
    except ValueError as error:
        raise UserError(f"try.{name}: {error}") from error
    check(isinstance(point, dict | list), f"try.{name} is {given}: give options and values, such as {{data.shift: 0}}")
    return {str(option): value for option, value in point.items()} if isinstance(point, dict) else point


def check_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raises a ``UserError`` if a sweep is not the one that was begun; lists may have grown."""
    for name in before.keys() | now.keys():
        old, new = before.get(name), now.get(name)
        if name in ("search", "config") and isinstance(old, dict) and isinstance(new, dict):
            for option in {**old, **new} if name == "search" else old:
                one, other = old.get(option), new.get(option)
                grown = isinstance(one, list) and isinstance(other, list) and all(value in other for value in one)
                check(
                    grown or one == other, f"{path}: {name}.{option} is not what it was when the sweep began; {AGAIN}"
                )
        else:
            check(old == new, f"{path}: {name} was {old} when the sweep began, and is {new} now; {AGAIN}")
