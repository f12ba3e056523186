"""Optimizer and learning rate schedule, and their record as plain values."""

import inspect
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fmnist.errors import UserError, check

Schedule = Literal["constant", "cosine", "linear"]
DEFAULT: dict[str, Any] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def configure(
    factory: OptimizerCallable | Mapping[str, Any] | None,
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    warmup_ratio: float,
    total: float,
) -> OptimizerLRScheduler:
    """Makes the optimizer and its schedule; biases and norms are exempt from weight decay.

    Args:
        factory: Makes an optimizer of groups of parameters, or what ``describe_optimizer`` returned; SGD if None.
        parameters: What is trained.
        schedule: Course of the learning rate after the warm-up.
        warmup_ratio: Share of all steps in which the learning rate rises linearly, in [0, 1].
        total: Optimization steps of the whole training.
    """
    every = list(parameters)
    weights, others = ([p for p in every if (p.ndim > 1) == decayed] for decayed in (True, False))
    optimizer = _as_callable(factory)([{"params": weights}, {"params": others, "weight_decay": 0.0}])
    if schedule == "constant" and not warmup_ratio:
        return optimizer
    factor = partial(learning_rate_factor, total=total, warmup_ratio=warmup_ratio, schedule=schedule)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def learning_rate_factor(step: int, total: float, warmup_ratio: float, schedule: Schedule) -> float:
    """Returns what the learning rate is multiplied by.

    Args:
        step: Optimization steps done so far.
        total: Optimization steps of the whole training.
        warmup_ratio: Share of ``total`` in which the factor rises linearly to 1.
        schedule: Course from there on: ``constant`` stays 1, the others fall to 0 at ``total``.
    """
    check(math.isfinite(total), "a learning rate schedule needs an end: set --trainer.max_epochs or max_steps")
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if schedule == "linear" else 1.0


def check_loss(loss: Tensor, epoch: int, optimizer: torch.optim.Optimizer) -> None:
    """Raises a ``UserError`` if the training loss of an epoch, counted from one, is not finite."""
    group = optimizer.param_groups[0]
    rate = group.get("initial_lr", group["lr"])
    what = f"the training loss is {loss:f} after epoch {epoch} at learning rate {rate:.3g}"
    check(bool(loss.isfinite()), f"{what}: lower --model.optimizer.lr")


def describe_optimizer(optimizer: OptimizerCallable | Mapping[str, Any] | None) -> dict[str, Any]:
    """Describes an optimizer in plain values, by looking at the one it makes.

    Args:
        optimizer: Makes an optimizer of parameters; a description stays as it is, None is SGD.

    Returns:
        Its ``class_path`` and ``init_args``, as the command line writes them.

    Raises:
        UserError: The optimizer refuses its settings.
    """
    if isinstance(optimizer, Mapping):
        return dict(optimizer)
    try:
        made = _as_callable(optimizer)([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)])
    except (TypeError, ValueError) as error:
        raise UserError(f"model.optimizer: {error}") from error
    known = inspect.signature(type(made)).parameters
    plain = (bool, int, float, str, list, tuple, type(None))
    return {
        "class_path": f"{type(made).__module__}.{type(made).__qualname__}",
        "init_args": {k: v for k, v in made.defaults.items() if k in known and isinstance(v, plain)},
    }


def _as_callable(optimizer: OptimizerCallable | Mapping[str, Any] | None) -> OptimizerCallable:
    """Returns what makes an optimizer; of a description only one of torch's, so that a file cannot name other code."""
    if callable(optimizer):
        return optimizer
    described = optimizer or DEFAULT
    package, _, name = str(described["class_path"]).rpartition(".")
    made: Any = getattr(torch.optim, name, None) if f"{package}.".startswith("torch.optim.") else None
    known = isinstance(made, type) and issubclass(made, torch.optim.Optimizer)
    check(
        known, f"model.optimizer is {described['class_path']}, which is not one of torch.optim: give the class itself"
    )
    return partial(made, **described.get("init_args") or {})
