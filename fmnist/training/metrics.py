"""What is measured in every training step, cheaply, and collected in an evaluation."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

BUFFER = 10  # batches that are added up together; what is kept of more would scatter large freed blocks of memory


class LossAndAccuracy(Metric):
    """Mean loss and micro-averaged accuracy over all samples since the last reset.

    Batches are added up ten at a time: in every step the handful of small operations would cost a small network
    more than its optimizer. Nothing is read back from the device before ``compute``, and processes with unequal
    shares of the data are weighted by their samples.
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.buffer: list[tuple[Tensor, Tensor, Tensor]] = []
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: float (B, num_classes).
            labels: int64 (B,).
            loss: Mean loss of the batch, scalar.
        """
        self.buffer.append((logits.detach(), labels, loss.detach()))
        if len(self.buffer) == BUFFER:
            self._add_up()

    def _add_up(self) -> None:
        if self.buffer:
            logits, labels, losses = zip(*self.buffer, strict=True)
            self.buffer.clear()
            sizes = torch.tensor([len(batch) for batch in labels], device=self.count.device)
            self.loss_sum += (torch.stack(losses) * sizes).sum()
            self.correct += (torch.cat(logits).argmax(1) == torch.cat(labels)).sum()
            self.count += sizes.sum()

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Adds up what is in the buffer before ``compute`` puts the processes together."""
        self._add_up()
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        """Drops all batches."""
        super().reset()
        self.buffer.clear()

    def compute(self) -> dict[str, Tensor]:
        """Returns ``loss`` (mean per sample) and ``acc`` (from 0 to 1)."""
        return {"loss": self.loss_sum / self.count, "acc": self.correct / self.count}


class Outputs(Metric):
    """Tensors of an evaluation, from all processes, in the order of the data.

    Args:
        names: What is kept of each batch, such as ``logits`` and ``labels``.
    """

    full_state_update = False

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, *batch: Tensor | None) -> None:
        """Adds a batch: a tensor (B, ...) for each name; None, but not for the first, where there is none."""
        assert batch[0] is not None
        missing = batch[0].new_empty(len(batch[0]), 0)
        for name, rows in zip(self.names, batch, strict=True):
            getattr(self, name).append(missing if rows is None else rows)

    def compute(self) -> tuple[Any, ...]:
        """Returns a tensor (N, ...) for each name, on the CPU, where 64 bits are at hand; None as in ``update``."""
        states = (getattr(self, name) for name in self.names)  # synchronized ones are tensors already
        whole = (in_order(torch.cat(state) if isinstance(state, list) else state).cpu() for state in states)
        return tuple(None if rows.shape[1:] == (0,) else rows for rows in whole)


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
