"""The training system around the network: loss, optimizer, schedule, metrics."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from fmnist.errors import check
from fmnist.evaluation.scores import score
from fmnist.model.calibration import fit_temperature
from fmnist.model.mlp import check_pixels
from fmnist.model.trained import (
    FIRST_CONVERSION,
    NetworkFactory,
    TrainedModel,
    build_network,
    calibrate,
    describe_network,
)
from fmnist.model.typicality import TypicalityFitter, listen
from fmnist.seeds import mix_seeds
from fmnist.training.lean import LeanModule
from fmnist.training.metrics import LossAndAccuracy, Outputs, Tested
from fmnist.training.objective import Objective, balance
from fmnist.training.optimization import Schedule, check_loss, configure, describe_optimizer
from fmnist.training.prelude import Prelude

PIXELS = (0.2860, 0.3530)  # mean and std of Fashion-MNIST
# The same as a lambda is the default below, which the command line can read and pickle cannot
DEFAULT_OPTIMIZER = partial(torch.optim.SGD, lr=0.1)


class ImageClassifier(LeanModule):
    """An MLP trained with cross-entropy.

    Args:
        hidden_dims: Width of each hidden layer.
        dropout: Probability with which a hidden unit is zeroed in training, in [0, 1).
        normalization: Batch normalization in each hidden layer, or none.
        activation: Non-linearity of the hidden layers.
        mean: Mean of the pixels on a scale from 0 to 1; that of the training images if not given.
        std: Standard deviation of the pixels on the same scale.
        optimizer: Optimizer class and its settings, such as ``SGD`` with ``lr``.
        lr_schedule: Course of the learning rate over all steps, after the warm-up.
        warmup_ratio: Share of all steps in which the learning rate rises linearly, in [0, 1].
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1), in training only.
        mixup: Blend training images and their labels in pairs; 0.2 is usual, 0 for none. The shares are
            drawn from Beta(mixup, mixup). Training accuracy then counts the label with the larger share.
        matmul_precision: Arithmetic of float32 products in training steps. ``medium`` can be faster on new devices.
        class_weights: ``balanced`` divides the loss of a training image by its class's share of them.
        network: Another network than the MLP, by the path of a class or a function. Called as
            ``network(num_classes=n)``, it maps normalized images, float (B, 1, 28, 28), to logits.
        weights: A checkpoint or run to begin with: weights, and mean and std of the pixels. A last layer of other
            classes is drawn anew.
        class_names: Names of the classes; those of the data if not given.
    """

    temperature: Tensor

    def __init__(
        self,
        hidden_dims: Sequence[int] = (512, 512),
        dropout: float = 0.0,
        normalization: Literal["none", "batch"] = "none",
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        mean: float | None = None,
        std: float | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1),
        lr_schedule: Schedule = "constant",
        warmup_ratio: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        class_weights: Literal["none", "balanced"] = "none",
        network: NetworkFactory | None = None,
        weights: str | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        if getattr(optimizer, "__qualname__", "") == "ImageClassifier.<lambda>":
            optimizer = DEFAULT_OPTIMIZER
        self.save_hyperparameters(logger=False)
        check_settings(self.hparams)
        # Plain values only, so that every checkpoint loads with weights_only=True.
        self.hparams["hidden_dims"] = list(hidden_dims)
        self.hparams["optimizer"] = describe_optimizer(optimizer)
        self.hparams["network"] = describe_network(network)
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
        self.optimizer, self.factory, self.begins_with = optimizer, network, weights
        self.network: nn.Module | None = None
        self.register_buffer("temperature", torch.ones(()))
        self._fitted_temperature: float | None = None
        self.train_metrics = LossAndAccuracy()
        self.val_outputs, self.test_outputs = Outputs("logits", "labels"), Outputs("logits", "labels")
        self.val_inputs = Outputs("images", "features")
        self.typicality = TypicalityFitter()
        self.tested: Tested | None = None
        self.seed = 0
        self.conversion: dict[str, Any] = {"name": "photo-2", "transform": None}
        if class_names is not None:
            self._build(PIXELS)

    def _build(self, pixels: tuple[float, float]) -> None:
        """Builds the network; mean and std of the pixels are those of the settings, else ``pixels``, and kept."""
        for name, value in zip(("mean", "std"), pixels, strict=True):
            self.hparams[name] = value if self.hparams[name] is None else self.hparams[name]
        self.network = build_network(self.hparams, self.factory)
        settings = (self.hparams[name] for name in ("label_smoothing", "mixup"))
        self.objective = Objective(len(self.hparams["class_names"]), *settings)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, 1, 28, 28), to logits, float (B, num_classes)."""
        assert self.network is not None, "the classes are unknown until a data module has been seen"
        check_pixels(images)
        logits: Tensor = self.network(images)
        return logits

    def trained(self) -> TrainedModel:
        """Returns the network as it is now, with its calibration and its classes."""
        assert self.network is not None
        model = TrainedModel(deepcopy(self.network), self.hparams["class_names"], self.typicality.state)
        model.temperature = self.temperature
        return model.eval()

    def setup(self, stage: str) -> None:
        """Notes the seed of the run, before anything is drawn."""
        self.seed = torch.initial_seed()

    def configure_callbacks(self) -> list[Callback]:
        """Puts a callback before all others that has the network built, for those that look for it."""
        Prelude.put_first(self.trainer)
        return []

    def configure_model(self) -> None:
        """Builds the network for the classes of the data, or checks that they are the known ones."""
        data = self._trainer.datamodule if self._trainer else None  # type: ignore[attr-defined]
        found = getattr(data, "class_names", None)
        known = self.hparams["class_names"]
        check(bool(known or found), "the classes are unknown: give class_names, or train with a data module")
        if known and found:
            check(known == found, f"the model predicts {', '.join(known)}; the data has {', '.join(found)}")
        if data is not None and hasattr(data, "source"):
            self.conversion = data.source.describe_conversion()
        if self.network is None:
            self.hparams["class_names"] = known or found
            self._build(getattr(data, "pixel_statistics", lambda: PIXELS)())

    def on_fit_start(self) -> None:
        """Weighs the classes, if that is asked for."""
        if self.hparams["class_weights"] == "balanced":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            check(data is not None, "model.class_weights: the classes are counted in a data module: train with one")
            self.objective.weights = balance(data.class_counts()).to(self.temperature)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        images, targets = self.objective.blend(*batch)  # uint8 (B, 1, 28, 28), int64 (B,)
        logits = self(images)
        loss = self.objective.loss(logits, targets)
        self.train_metrics.note(logits, batch[1], loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Notes what the network says of a batch."""
        logits, features = listen(self, batch[0])
        self.val_outputs.update(logits, batch[1])
        self.val_inputs.update(batch[0], features)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Notes what the network says of a batch."""
        self.test_outputs.update(self(batch[0]), batch[1])

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the calibrated probabilities of a batch, float (B, num_classes)."""
        return calibrate(self(batch[0]), self.temperature)

    def on_train_epoch_start(self) -> None:
        """Makes the randomness of the epoch a function of seed, epoch and rank."""
        self.train_metrics.reset()
        torch.manual_seed(mix_seeds(self.seed, self.current_epoch, self.global_rank))

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Logs the epoch with its last batch: callbacks read it before ``on_train_epoch_end`` comes here."""
        stops = self.trainer.should_stop or self.trainer.global_step == self.trainer.max_steps
        if self.trainer.is_last_batch or stops:
            self.train_metrics.measure_noted()
            metrics = self.train_metrics.compute()
            check_loss(metrics["loss"], self.current_epoch + 1, self.trainer.optimizers[0])  # before it is saved
            self._log("train", metrics)

    def on_validation_epoch_end(self) -> None:
        """Fits temperature and typicality, if this is part of a training, and logs the validation metrics."""
        logits, labels = self.val_outputs.take()
        images, features = self.val_inputs.take()
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._fitted_temperature = fit_temperature(logits, labels)
            self.temperature.fill_(self._fitted_temperature)
            self.typicality.fit(images, features, logits)
        scores = score(logits, labels, self.temperature.item())
        self._log("val", {name: scores[name] for name in ("loss", "acc", "ece")})

    def on_train_end(self) -> None:
        """Puts the temperature back, which callbacks that average the weights have averaged as well."""
        if self._fitted_temperature:
            self.temperature.fill_(self._fitted_temperature)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the temperature as it was fitted, whatever callbacks have made of the other weights."""
        checkpoint["state_dict"]["temperature"] = self.temperature.detach().clone()
        checkpoint["conversion"] = self.conversion
        checkpoint["typicality"] = self.typicality.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes what is not among the weights: how pictures were converted, and what is typical."""
        self.conversion, self.begins_with = checkpoint.get("conversion", FIRST_CONVERSION), None
        self.typicality.state = checkpoint.get("typicality", {})

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics, and keeps them, with logits and labels, as ``tested``."""
        logits, labels = self.test_outputs.take()
        self.tested = Tested(logits, labels, score(logits, labels, self.temperature.item()))
        self._log("test", {**self.tested.scores, "num_samples": torch.tensor(len(labels))})

    def _log(self, stage: str, metrics: dict[str, Tensor]) -> None:
        shown = {f"{stage}/{name}": value.float() for name, value in metrics.items()}
        self.log_dict(shown, prog_bar=True, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer and its schedule."""
        schedule = (self.hparams["lr_schedule"], self.hparams["warmup_ratio"])
        steps = 0 if schedule == ("constant", 0) else self.trainer.estimated_stepping_batches  # which builds the loader
        return configure(self.optimizer, self.parameters(), *schedule, steps)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises a ``UserError`` for a setting of an ``ImageClassifier`` that makes no sense."""
    within = "it must be in [0, 1)"
    for name, right, rule in (
        ("hidden_dims", lambda value: all(width > 0 for width in value), "widths are positive"),
        ("dropout", lambda value: 0 <= value < 1, within),
        ("mean", lambda value: value is None or math.isfinite(value), "it must be a number"),
        ("std", lambda value: value is None or 0 < value < math.inf, "it must be positive"),
        ("warmup_ratio", lambda value: 0 <= value <= 1, "it must be in [0, 1]"),
        ("mixup", lambda value: 0 <= value < math.inf, "it must not be negative, nor infinite"),
        ("label_smoothing", lambda value: 0 <= value < 1, within),
    ):
        check(right(settings[name]), f"model.{name} is {settings[name]}: {rule}")
