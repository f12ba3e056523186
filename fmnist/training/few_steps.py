"""What a short training does not get to, said at its start."""

import math
from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, Timer, WeightAveraging

from fmnist.errors import check


class FewSteps(Callback):
    """Compares the steps of a training with what its settings need.

    Weights that are never averaged would replace the trained ones by those of the beginning, so
    that is refused; the rest is said in a line each.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the settings when all steps are known.

        Raises:
            UserError: Averaging begins after the end.
        """
        self._check_averaging(trainer)
        if trainer.is_global_zero:
            for line in self._remarks(trainer, pl_module):
                print(f"notice: {line}", flush=True)

    @staticmethod
    def _check_averaging(trainer: Trainer) -> None:
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or 0
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            begins = True
            if isinstance(callback, WeightAveraging) and math.isfinite(steps):
                begins = any(callback.should_update(step_idx=step) for step in range(int(steps))) or any(
                    callback.should_update(epoch_idx=epoch) for epoch in range(epochs)
                )
            elif isinstance(callback, StochasticWeightAveraging) and epochs > 0:
                begins = callback.swa_start < callback.swa_end + 1
            name = type(callback).__name__
            check(begins, f"{name} would never begin: the training has {steps} steps in {epochs} epochs")

    @staticmethod
    def _remarks(trainer: Trainer, model: LightningModule) -> Iterator[str]:
        hparams, steps, callbacks = model.hparams, trainer.estimated_stepping_batches, trainer.callbacks  # type: ignore[attr-defined]
        data, images = trainer.datamodule, len(trainer.datamodule.train_set)  # type: ignore[attr-defined]
        if data.batch_size > images:
            yield f"data.batch_size {data.batch_size} is more than the {images:,} training images: an epoch is one step"
        if hparams["warmup_ratio"] and round(hparams["warmup_ratio"] * steps) == 0:
            yield f"model.warmup_ratio {hparams['warmup_ratio']} of {steps} steps is none: there is no warm-up"
        if hparams["lr_schedule"] != "constant" and any(isinstance(callback, Timer) for callback in callbacks):
            yield f"the learning rate is planned for {steps} steps, and the time limit may end the training before"
        for callback in callbacks:
            if isinstance(callback, EMAWeightAveraging) and callback.update_every_n_steps > 0:
                old = _share_of_first_weights(callback, steps)
                if old > 0.1:
                    yield f"EMAWeightAveraging ends with {100 * old:.0f} % of its first weights: lower its decay"


def _share_of_first_weights(callback: EMAWeightAveraging, steps: float) -> float:
    """Returns how much of the average will be the weights that it began with, from 0 to 1."""
    decay = 1 - callback._kwargs["avg_fn"](torch.zeros(()), torch.ones(()), 1).item()  # what it makes of 0 and 1
    return float(decay ** max(0, steps / callback.update_every_n_steps - 1))
