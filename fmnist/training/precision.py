"""The arithmetic of float32 products while a network is trained."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


class MatmulPrecision(Callback):
    """Sets the precision of float32 products for training; evaluation keeps the one before, in ``fit`` as elsewhere.

    Args:
        precision: ``highest``, ``high`` or ``medium``; see ``torch.set_float32_matmul_precision``.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.before = torch.get_float32_matmul_precision()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the precision of training."""
        torch.set_float32_matmul_precision(self.precision)

    def on_validation_start(self, *_: Any) -> None:
        """Restores the precision before."""
        torch.set_float32_matmul_precision(self.before)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the precision of training again."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.on_train_start(trainer, pl_module)

    def on_train_end(self, *_: Any) -> None:
        """Restores the precision before."""
        self.on_validation_start()

    def on_exception(self, *_: Any) -> None:
        """Restores the precision before."""
        self.on_validation_start()
