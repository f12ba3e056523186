"""What comes before the callbacks of a training, and what is said at its start."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from fmnist.errors import check
from fmnist.training.transfer import Origin


class Prelude(Callback):
    """Has the network built, with the weights to begin with, before any other callback is set up.

    Lightning builds it after them, in ``configure_model``; callbacks that average or prune its
    weights would find none.
    """

    @classmethod
    def put_first(cls, trainer: Trainer) -> None:
        """Adds a prelude to a trainer that has none."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, cls) for callback in callbacks):
            callbacks.insert(0, cls())

    precision = "highest"  # of matrix products outside of training steps

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Builds the network, in the precision of the trainer.

        Raises:
            UserError: It would be built, and trained, in another process than the one that asked for it.
        """
        apart = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher) and pl_module.network is None
        check(not apart, "processes that are spawned or forked need ImageClassifier(class_names=...) to give it back")
        origin = Origin(pl_module.begins_with) if stage == "fit" and pl_module.begins_with else None
        if origin:
            origin.give_pixels_to(pl_module.hparams)
        with trainer.precision_plugin.module_init_context():
            pl_module.configure_model()
        if origin:
            pl_module.print(origin.give_to(pl_module.network, pl_module.hparams["class_names"]))
            pl_module.begins_with = None  # a second training goes on
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StochasticWeightAveraging):
                # The pass that gathers the statistics of the averaged network also evaluates and saves it;
                # without one the average would come after the last checkpoint.
                callback.pl_module_contains_batch_norm = lambda pl_module: True  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Notes the precision of matrix products."""
        self.precision = torch.get_float32_matmul_precision()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        """Takes the one of training steps."""
        torch.set_float32_matmul_precision(pl_module.hparams["matmul_precision"])

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Puts the one of before back: an evaluation is the same with every setting."""
        torch.set_float32_matmul_precision(self.precision)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Puts the precision back."""
        torch.set_float32_matmul_precision(self.precision)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Puts the precision back."""
        torch.set_float32_matmul_precision(self.precision)
