"""What is measured in every step of a training, cheaply, and gathered in an evaluation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Tested(NamedTuple):
    """What a network said in a test."""

    logits: Tensor
    """float (N, num_classes)."""
    labels: Tensor
    """int64 (N,)."""
    scores: dict[str, Tensor]
    """What ``score`` makes of them."""


class LossAndAccuracy(Metric):
    """Mean loss and micro-averaged accuracy over all samples since the last reset.

    Batches are noted one at a time and measured fifty at a time: the handful of small operations
    that it takes would cost a small network more than its optimizer, were it done in every step.
    Nothing is read back from the device before ``compute``, and processes with unequal shares of
    the data are weighted by their samples.
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Tensor, Tensor, Tensor]] = []
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def note(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Notes a batch, and measures what has been noted if that is much.

        Args:
            logits: float (B, num_classes).
            labels: int64 (B,).
            loss: Mean loss of the batch, scalar.
        """
        self.noted.append((logits.detach(), labels, loss.detach()))
        if len(self.noted) == 50:
            self.measure_noted()

    def measure_noted(self) -> None:
        """Measures what has been noted; to be called before ``compute``."""
        if self.noted:
            logits, labels, losses = zip(*self.noted, strict=True)
            self.noted.clear()
            self.update(logits, labels, losses)

    def update(self, logits: Sequence[Tensor], labels: Sequence[Tensor], losses: Sequence[Tensor]) -> None:
        """Adds batches; the arguments are those of ``note``, one of each for every batch."""
        sizes = torch.tensor([len(batch) for batch in labels], device=self.count.device)
        self.loss_sum += (torch.stack(losses) * sizes).sum()  # type: ignore[arg-type]
        self.correct += (torch.cat(logits).argmax(1) == torch.cat(labels)).sum()  # type: ignore[arg-type]
        self.count += sizes.sum()

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.noted.clear()

    def compute(self) -> dict[str, Tensor]:
        """Returns ``loss`` (mean per sample) and ``acc`` (from 0 to 1)."""
        return {"loss": self.loss_sum / self.count, "acc": self.correct / self.count}


class Outputs(Metric):
    """What an evaluation has seen and said, from all processes, in the order of the data.

    Args:
        names: What is kept of each batch, such as ``logits`` and ``labels``.
    """

    full_state_update = False

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, *batch: Tensor) -> None:
        """Adds a batch: a tensor (B, ...) for each name."""
        for name, rows in zip(self.names, batch, strict=True):
            getattr(self, name).append(rows)

    def compute(self) -> tuple[Tensor, ...]:
        """Returns a tensor (N, ...) for each name, on the CPU, where 64 bits are at hand."""
        states = (getattr(self, name) for name in self.names)  # synchronized ones are tensors already
        return tuple(in_order(torch.cat(state) if isinstance(state, list) else state).cpu() for state in states)

    def take(self) -> Any:
        """Returns what ``compute`` does, and forgets it."""
        found = self.compute()
        self.reset()
        return found


def in_order(rows: Tensor) -> Tensor:
    """Puts the rows of all processes, each of which had every N-th sample, back into order.

    Args:
        rows: The shares of all processes, one after the other, (N, ...).
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if processes == 1:
        return rows
    places = torch.cat([torch.arange(rank, len(rows), processes) for rank in range(processes)])
    return rows[places.argsort().to(rows.device)]
