"""Which averages of the weights a run can have."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from fmnist.errors import check


class AveragingCheck(Callback):
    """Refuses callbacks that average the weights without effect on what is saved."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises a ``UserError`` for an average that no checkpoint would have."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            late = isinstance(callback, StochasticWeightAveraging)
            check(not late, "StochasticWeightAveraging averages after the last epoch is saved: use EMAWeightAveraging")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises a ``UserError`` for an average that never begins: initial weights would replace the trained ones."""
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or 0
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and math.isfinite(steps):
                begins = any(callback.should_update(step_idx=step) for step in range(int(steps))) or any(
                    callback.should_update(epoch_idx=epoch) for epoch in range(epochs)
                )
                name = type(callback).__name__
                check(begins, f"{name} would never start averaging: the run has {steps} steps in {epochs} epochs")
