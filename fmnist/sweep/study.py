"""What Optuna says: a study in memory, made of the folders each time it is asked."""

from collections.abc import Sequence
from typing import Any

from fmnist.names import check_installed
from fmnist.seeds import mix_seeds
from fmnist.sweep.space import Plan, Point, Range, as_text
from fmnist.sweep.trials import Trial

STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # without a result it is running


def ask(plan: Plan, trials: Sequence[Trial], *numbers: int) -> Point:
    """Asks for the next point, with a seed mixed of the sweep's and these numbers."""
    asked = _make_study(plan, trials, *numbers).ask(_distributions(plan)).params
    return {name: _read(plan.space[name], value) for name, value in asked.items()}


def is_hopeless(plan: Plan, trials: Sequence[Trial], trial: Trial) -> bool:
    """Tells whether a running trial is worse than half of the others were at its epoch."""
    study = _make_study(plan, trials, trial.number)
    return bool(study.pruner.prune(study, study.trials[[other.path for other in trials].index(trial.path)]))


def _make_study(plan: Plan, trials: Sequence[Trial], *numbers: int) -> Any:
    check_installed("tpe or a pruner", ("optuna",), "sweep")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=mix_seeds(plan.seed, *numbers) % 2**32)
    direction = "minimize" if plan.mode == "min" else "maximize"
    study = optuna.create_study(direction=direction, sampler=sampler, pruner=optuna.pruners.MedianPruner())  # type: ignore[arg-type]
    for trial in trials:
        result = trial.result() or {}
        value = result.get("value")
        state = STATES.get(str(result.get("status")), "RUNNING")
        params = _params(plan, trial.point)
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState["FAIL" if state == "COMPLETE" and value is None else state],
                params=params,
                distributions=_distributions(plan) if params else {},
                value=value if state == "COMPLETE" else None,
                intermediate_values=trial.values(plan.metric) if plan.pruner != "none" else {},
            )
        )
    return study


def _read(space: Range | list[Any], value: Any) -> Any:
    return space.round(value) if isinstance(space, Range) else next(v for v in space if as_text(v) == value)


def _params(plan: Plan, point: Point | list[str]) -> dict[str, Any]:
    """Writes a point for Optuna; nothing if it is a named one that lies outside of the space."""
    spaces = _distributions(plan)
    if isinstance(point, list) or point.keys() != spaces.keys():
        return {}
    params = {name: as_text(v) if isinstance(plan.space[name], list) else v for name, v in point.items()}
    inside = all(space._contains(space.to_internal_repr(params[name])) for name, space in spaces.items())
    return params if inside else {}


def _distributions(plan: Plan) -> dict[str, Any]:
    import optuna.distributions as kinds

    made: dict[str, Any] = {}
    for name, space in plan.space.items():
        if isinstance(space, list):
            made[name] = kinds.CategoricalDistribution([as_text(value) for value in space])
        elif space.whole:
            made[name] = kinds.IntDistribution(int(space.low), int(space.high), space.log, int(space.step or 1))
        else:
            made[name] = kinds.FloatDistribution(space.low, space.high, space.log, space.step)
    return made
