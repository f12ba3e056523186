"""The classifier: network, loss and optimizer, as Lightning trains them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fmnist.data.sources.fashion_mnist import FashionMNIST
from fmnist.errors import check
from fmnist.model.checks import check_network, check_pixels, check_settings
from fmnist.model.network import NetworkFactory, build_network, describe_network
from fmnist.model.typicality import forward_with_features, shrink
from fmnist.runs.checkpoint import check_restorable
from fmnist.training.averaging import AveragingCheck
from fmnist.training.calibration import CalibratedModule
from fmnist.training.loss import balance, mixup
from fmnist.training.optimization import ProgressLR, Schedule, describe_optimizer, make_optimizer
from fmnist.training.pretrained import Pretrained


class ImageClassifier(CalibratedModule):
    """A LightningModule: the network, its loss and its optimizer.

    Read ``training_step`` and ``validation_step`` first. The network is an MLP unless ``network`` names another one.
    What surrounds the steps, such as metrics, calibration and the content of checkpoints, is in ``CalibratedModule``.

    Args:
        hidden_dims: Width of each hidden layer.
        dropout: Probability with which a hidden unit is zeroed in training, in [0, 1).
        normalization: Batch normalization in each hidden layer, or none.
        activation: Non-linearity of the hidden layers.
        mean: Mean of the pixels on a scale from 0 to 1, one for all channels or one for each; that of the training
            images if not given.
        std: Standard deviation of the pixels on the same scale.
        optimizer: Optimizer class and its settings, such as ``SGD`` with ``lr``; SGD at 0.1 if not given.
        lr_schedule: Course of the learning rate over all steps, after the warm-up.
        warmup_ratio: Share of all steps in which the learning rate rises linearly, in [0, 1].
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1), in training only.
        mixup: Blend training images and their labels in pairs; 0.2 is usual, 0 for none. The shares are
            drawn from Beta(mixup, mixup). Training accuracy then counts the label with the larger share.
        class_weights: ``balanced`` divides the loss of a training image by its class's share of them.
        network: A network other than the MLP, by the import path of a class or a function. Called as
            ``network(num_classes=n)``, it maps normalized images, float (B, C, H, W), to logits.
        weights: A checkpoint or run to begin with: weights, and mean and std of the pixels. A head for other classes
            is new.
        class_names: Names of the classes, those of Fashion-MNIST if not given; ``fit`` takes them from the data.
        image_shape: Channels, height and width of the images, as for the names; 1, 28 and 28 if not given.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int] = (512, 512),
        dropout: float = 0.0,
        normalization: Literal["none", "batch"] = "none",
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_schedule: Schedule = "constant",
        warmup_ratio: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
        network: NetworkFactory | None = None,
        weights: str | None = None,
        class_names: list[str] | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["class_names", "image_shape"])
        # Added here, so that they are in the same order in the checkpoints of a run that was continued.
        self.hparams["class_names"] = list(class_names or FashionMNIST.class_names)
        self.hparams["image_shape"] = list(image_shape or FashionMNIST.image_shape)
        check_settings(self.hparams)
        # Plain values only, so that every checkpoint loads with weights_only=True, which runs no code.
        self.hparams["hidden_dims"] = list(hidden_dims)
        self.hparams["network"] = describe_network(network)
        self.hparams["weights"] = None  # those that a checkpoint has are newer
        pretrained = Pretrained(weights) if weights else None
        self.is_pretrained = pretrained is not None
        if pretrained:
            pretrained.copy_pixel_statistics(self.hparams)
        self.network = build_network(self.hparams, network)
        if network is not None:
            check_restorable(self.network)
            build = partial(build_network, self.hparams, network)
            self.typicality.available = check_network(self.network, build, rank_zero_only(print), self.image_shape)
        if pretrained:
            pretrained.copy_weights(self.network, self.hparams, network)
        self.class_weights: Tensor | None = None  # float (C,); counted when the data is known
        self.optimizer = optimizer
        if not isinstance(optimizer, Mapping):  # a checkpoint describes its optimizer with plain values
            self.hparams["optimizer"] = describe_optimizer(make_optimizer(optimizer, self.network.parameters()))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, C, H, W), to logits, float (B, num_classes)."""
        check_pixels(images)
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch; Lightning calls ``backward`` on it, and then the optimizer's ``step``."""
        images, labels = batch  # uint8 (B, C, H, W), int64 (B,)
        targets = labels
        if self.hparams["mixup"]:  # targets become probabilities: share * one_hot(a) + (1 - share) * one_hot(b)
            shares = one_hot(labels, len(self.hparams["class_names"])).to(torch.get_default_dtype())
            images, targets = mixup(images, shares, self.hparams["mixup"])
        logits = self(images)
        loss = cross_entropy(logits, targets, self.class_weights, label_smoothing=self.hparams["label_smoothing"])
        self.train_metrics.update(logits, labels, loss)  # logged once an epoch, in on_train_batch_end
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Collects logits and labels, and what typicality is fitted to; see ``on_validation_epoch_end``."""
        with torch.autocast(self.device.type, enabled=False):  # in float32, whatever training computes in
            logits, features = forward_with_features(self, batch[0])  # features: the inputs of the last layer
            small = shrink(batch[0])
        self.val_outputs.update(logits, batch[1])
        self.val_inputs.update(small, features if self.typicality.available else None)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer and its schedule."""
        optimizer = make_optimizer(self.optimizer, self.parameters())
        self.hparams["optimizer"] = describe_optimizer(optimizer)  # another one may have been set after __init__
        schedule = (self.hparams["lr_schedule"], self.hparams["warmup_ratio"])
        if schedule == ("constant", 0):  # only a schedule needs the number of steps, for which the loader is built
            return optimizer
        scheduler = ProgressLR(optimizer, self.trainer, *schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[Callback]:
        """Returns the callbacks of every run, also of one that is started from Python."""
        return [AveragingCheck()]

    def on_fit_start(self) -> None:
        """Counts the training images of each class, for ``class_weights="balanced"``."""
        self.class_weights = None
        if self.hparams["class_weights"] == "balanced":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            check(data is not None, "model.class_weights: the classes are counted in a data module: train with one")
            self.class_weights = balance(data.class_counts()).to(self.temperature)
