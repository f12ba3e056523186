"""A metric of one's own: what a callback logs under ``val/`` is a column of the run's ``metrics.csv``."""

import torch
from lightning.pytorch import Callback, Trainer

from fmnist import ImageClassifier


class WorstClass(Callback):
    """Logs the accuracy of the class that is recognized worst, ``val/worst_class_acc``."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Looks at the logits of all validation images, float (N, num_classes), and their labels, int64 (N,)."""
        logits, labels = pl_module.val_outputs.compute()
        right = logits.argmax(1) == labels
        each = [right[labels == label].float().mean() for label in labels.unique()]
        pl_module.log("val/worst_class_acc", torch.stack(each).min(), rank_zero_only=True)
