"""Optimizer and learning rate schedule, and their record as plain values."""

import inspect
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fmnist.errors import UserError, check

Schedule = Literal["constant", "cosine", "linear"]
DEFAULT: dict[str, Any] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def make_optimizer(
    factory: OptimizerCallable | Mapping[str, Any] | None, parameters: Iterable[nn.Parameter]
) -> Optimizer:
    """Makes the optimizer; biases and norms are exempt from weight decay.

    Args:
        factory: Makes an optimizer of groups of parameters, or what ``describe_optimizer`` returned; SGD if None.
        parameters: What is trained.

    Raises:
        UserError: The optimizer refuses its settings.
    """
    every = list(parameters)
    weights, others = ([p for p in every if (p.ndim > 1) == decayed] for decayed in (True, False))
    try:
        return _as_callable(factory)([{"params": weights}, {"params": others, "weight_decay": 0.0}])
    except (TypeError, ValueError) as error:
        raise UserError(f"model.optimizer: {error}") from error


class ProgressLR(LambdaLR):
    """Multiplies the learning rate by a function of the progress of the training, see ``count_steps``.

    A ``LambdaLR`` counts only steps, and an epoch can have more or fewer of them when a run is continued.

    Raises:
        UserError: The training has no end.
    """

    def __init__(self, optimizer: Optimizer, trainer: Trainer, schedule: Schedule, warmup_ratio: float) -> None:
        ends = 0 < trainer.estimated_stepping_batches < math.inf  # asking for it builds the loader
        check(ends, "a learning rate schedule needs an end: set --trainer.max_epochs or max_steps")
        super().__init__(optimizer, lambda _: learning_rate_factor(*count_steps(trainer), warmup_ratio, schedule))


def begin_epoch(trainer: Trainer) -> None:
    """Sets the learning rate of an epoch's first step: a checkpoint has it as it was planned before."""
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        if isinstance(scheduler, ProgressLR):
            groups = scheduler.optimizer.param_groups
            for group, rate, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
                group["lr"] = rate * factor(0)


def count_steps(trainer: Trainer) -> tuple[int, int]:
    """Returns how many steps are done and how many there will be, as if all epochs had those of the running one.

    Where ``max_steps`` ends the training, they are the trainer's own.
    """
    counts, batches = [], trainer.num_training_batches
    if trainer.max_steps != -1:
        counts.append((trainer.global_step, max(1, trainer.max_steps)))
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        running = trainer.fit_loop.epoch_loop.batch_progress.current
        begun = running.ready if running.ready > running.completed else 0  # all are completed between two epochs
        per_epoch, done = (math.ceil(number / trainer.accumulate_grad_batches) for number in (batches, begun))
        counts.append((trainer.current_epoch * per_epoch + done, max(1, trainer.max_epochs) * per_epoch))
    return max(counts, key=lambda count: (count[0] / count[1], -count[1]))


def learning_rate_factor(step: int, total: int, warmup_ratio: float, schedule: Schedule) -> float:
    """Returns what the learning rate is multiplied by.

    Args:
        step: Optimization steps done so far.
        total: Optimization steps of the whole training.
        warmup_ratio: Share of ``total`` in which the factor rises linearly to 1.
        schedule: Course from there on: ``constant`` stays 1, the others fall to 0 at ``total``, and stay there.
    """
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if schedule == "linear" else 1.0


def check_loss(loss: Tensor, epoch: int, optimizer: Optimizer) -> None:
    """Raises a ``UserError`` if the training loss of an epoch, counted from one, is not finite."""
    group = optimizer.param_groups[0]
    rate = group.get("initial_lr", group["lr"])
    what = f"the training loss is {loss:f} after epoch {epoch} at learning rate {rate:.3g}"
    check(bool(loss.isfinite()), f"{what}: lower --model.optimizer.lr")


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Describes an optimizer as the command line writes it: its ``class_path`` and, as plain values, ``init_args``."""
    known = inspect.signature(type(optimizer)).parameters
    plain = (bool, int, float, str, list, tuple, type(None))
    return {
        "class_path": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "init_args": {k: v for k, v in optimizer.defaults.items() if k in known and isinstance(v, plain)},
    }


def find_optimizer(path: str) -> type[Optimizer] | None:
    """Returns the optimizer of torch with an import path; None for any other, so that a file cannot name other code."""
    made: Any = getattr(torch.optim, path.rpartition(".")[2], None) if path.startswith("torch.optim.") else None
    return made if isinstance(made, type) and issubclass(made, Optimizer) else None


def _as_callable(optimizer: OptimizerCallable | Mapping[str, Any] | None) -> OptimizerCallable:
    """Returns what makes an optimizer, which is one of torch's if it is only described."""
    if callable(optimizer):
        return optimizer
    described = optimizer or DEFAULT
    made = find_optimizer(str(described["class_path"]))
    if made is None:
        what = f"model.optimizer is {described['class_path']}, which is not one of torch.optim"
        raise UserError(f"{what}: give the class itself")
    return partial(made, **described.get("init_args") or {})
