"""The training system around the network: loss, optimizer, schedule, metrics."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fmnist.errors import check
from fmnist.evaluation.scores import score
from fmnist.model.calibration import fit_temperature
from fmnist.model.mlp import MLP
from fmnist.seeds import mix_seeds
from fmnist.training.metrics import LossAndAccuracy, Outputs
from fmnist.training.objective import balance, mixup
from fmnist.training.optimization import Schedule, describe_optimizer, learning_rate_factor


class ImageClassifier(LightningModule):
    """An MLP trained with cross-entropy.

    Args:
        hidden_dims: Width of each hidden layer.
        dropout: Probability with which a hidden unit is zeroed in training, in [0, 1).
        normalization: Batch normalization in each hidden layer, or none.
        activation: Non-linearity of the hidden layers.
        mean: Mean of the pixels on a scale from 0 to 1; Fashion-MNIST's by default.
        std: Standard deviation of the pixels on the same scale.
        optimizer: Optimizer class and its settings, such as ``SGD`` with ``lr``.
        lr_schedule: Course of the learning rate over all steps, after the warm-up.
        warmup_ratio: Share of all steps in which the learning rate rises linearly, in [0, 1].
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1), in training only.
        mixup: Blend training images and their labels in pairs; 0.2 is usual, 0 for none. The shares are
            drawn from Beta(mixup, mixup). Training accuracy then counts the label with the larger share.
        class_weights: ``balanced`` gives all classes the same weight together, in training only. The loss of
            an image is divided by its class's share of the training images.
        compile: Train with ``torch.compile``. It takes up to a minute at the start; whether steps get
            shorter depends on the machine. The weights keep their names, and only a training is compiled.
        class_names: Names of the classes; taken from the data if not given.
    """

    temperature: Tensor

    def __init__(
        self,
        hidden_dims: Sequence[int] = (512, 512),
        dropout: float = 0.0,
        normalization: Literal["none", "batch"] = "none",
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        mean: float = 0.2860,
        std: float = 0.3530,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1),
        lr_schedule: Schedule = "constant",
        warmup_ratio: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
        compile: bool = False,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        check(all(width > 0 for width in hidden_dims), f"model.hidden_dims is {hidden_dims}: widths are positive")
        check(0 <= dropout < 1, f"model.dropout is {dropout}: it must be in [0, 1)")
        check(math.isfinite(mean), f"model.mean is {mean}: it must be a number")
        check(0 < std < math.inf, f"model.std is {std}: it must be positive")
        check(0 <= warmup_ratio <= 1, f"model.warmup_ratio is {warmup_ratio}: it must be in [0, 1]")
        check(0 <= mixup < math.inf, f"model.mixup is {mixup}: it must not be negative, nor infinite")
        check(0 <= label_smoothing < 1, f"model.label_smoothing is {label_smoothing}: it must be in [0, 1)")
        self.save_hyperparameters(logger=False)
        # Plain values only, so that every checkpoint loads with weights_only=True.
        self.hparams["hidden_dims"] = list(hidden_dims)
        self.hparams["optimizer"] = describe_optimizer(optimizer)
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
        self.optimizer = optimizer
        self.network: nn.Module | None = None
        self.register_buffer("temperature", torch.ones(()))
        self._fitted_temperature: float | None = None
        self.train_metrics = LossAndAccuracy()
        self.val_outputs = Outputs()
        self.test_outputs = Outputs()
        self.tested = (torch.empty(0, 0), torch.empty(0, dtype=torch.long))
        self.tta: Literal["none", "flip"] = "none"
        self.seed = 0
        self.loss_weights: Tensor | None = None
        if class_names is not None:
            self.network = self._build()

    def __setattr__(self, name: str, value: Any) -> None:
        """Spares Lightning's note of the hook it is in, set forty times a step, the search for tensors in it."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 (B, 1, 28, 28), to logits, float (B, num_classes)."""
        assert self.network is not None
        logits: Tensor = self.network(images)
        if self.tta == "flip" and not self.training:
            logits = (logits + self.network(images.flip(-1))) / 2
        return logits

    def setup(self, stage: str) -> None:
        """Notes the seed of the run, before anything is drawn."""
        self.seed = torch.initial_seed()

    def on_fit_start(self) -> None:
        """Weighs the classes and compiles the network, if that is asked for."""
        if self.hparams["compile"]:
            assert self.network is not None
            self.network.compile()
        if self.hparams["class_weights"] == "balanced":
            labels = self.trainer.datamodule.train_set.labels  # type: ignore[attr-defined]
            weights = balance(labels, len(self.hparams["class_names"]))
            self.loss_weights = weights.to(self.temperature)

    def configure_model(self) -> None:
        """Builds the network for the classes of the data, or checks that they are the known ones."""
        data = self._trainer.datamodule if self._trainer else None  # type: ignore[attr-defined]
        found = getattr(data, "class_names", None)
        known = self.hparams["class_names"]
        check(bool(known or found), "the classes are unknown: give class_names, or train with a data module")
        if known and found:
            check(known == found, f"the model predicts {', '.join(known)}; the data has {', '.join(found)}")
        if self.network is None:
            self.hparams["class_names"] = known or found
            self.network = self._build()

    def _build(self) -> MLP:
        names = ("hidden_dims", "dropout", "normalization", "activation", "mean", "std")
        return MLP(len(self.hparams["class_names"]), **{name: self.hparams[name] for name in names})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        images, labels = batch  # uint8 (B, 1, 28, 28), int64 (B,)
        smoothing, targets = self.hparams["label_smoothing"], labels
        if self.hparams["mixup"]:
            probabilities = F.one_hot(labels, len(self.hparams["class_names"])).to(self.temperature)
            images, targets = mixup(images, probabilities, self.hparams["mixup"])
        logits = self(images)
        loss = F.cross_entropy(logits, targets, self.loss_weights, label_smoothing=smoothing)
        self.train_metrics.note(logits, labels, loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Notes what the network says of a batch."""
        self.val_outputs.update(self(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Notes what the network says of a batch."""
        self.test_outputs.update(self(batch[0]), batch[1])

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the probabilities of a batch, float (B, num_classes)."""
        return self.probabilities(batch[0])

    def probabilities(self, images: Tensor) -> Tensor:
        """Maps images, uint8 (B, 1, 28, 28), to calibrated probabilities, float (B, num_classes)."""
        return torch.softmax(self(images).float() / self.temperature, dim=1)

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
            group = self.trainer.optimizers[0].param_groups[0]
            rate = group.get("initial_lr", group["lr"])
            check(  # before any checkpoint is written
                bool(metrics["loss"].isfinite()),
                f"the training loss is {metrics['loss']:f} after epoch {self.current_epoch + 1} at learning rate "
                f"{rate:.3g}: lower --model.optimizer.lr",
            )
            self._log("train", metrics)

    def on_validation_epoch_end(self) -> None:
        """Fits the temperature, if this is part of a training, and logs the validation metrics."""
        logits, labels = self.val_outputs.compute()
        self.val_outputs.reset()
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._fitted_temperature = fit_temperature(logits, labels)
            self.temperature.fill_(self._fitted_temperature)
        scores = score(logits, labels, self.temperature.item())
        self._log("val", {name: scores[name] for name in ("loss", "acc", "ece")})

    def on_train_end(self) -> None:
        """Puts the temperature back, which callbacks that average the weights have averaged as well."""
        if self._fitted_temperature:
            self.temperature.fill_(self._fitted_temperature)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the temperature as it was fitted, whatever callbacks have made of the other weights."""
        checkpoint["state_dict"]["temperature"] = self.temperature.detach().clone()

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics, and keeps logits and labels as ``tested``."""
        self.tested = self.test_outputs.compute()
        self.test_outputs.reset()
        scores = score(*self.tested, self.temperature.item())
        self._log("test", {**scores, "num_samples": torch.tensor(len(self.tested[1]))})

    def _log(self, stage: str, metrics: dict[str, Tensor]) -> None:
        shown = {f"{stage}/{name}": value.float() for name, value in metrics.items()}
        self.log_dict(shown, prog_bar=True, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer and its schedule; biases and norms are exempt from weight decay."""
        weights = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        optimizer = self.optimizer([{"params": weights}, {"params": others, "weight_decay": 0.0}])
        if self.hparams["lr_schedule"] == "constant" and not self.hparams["warmup_ratio"]:
            return optimizer
        factor = partial(
            learning_rate_factor,
            total=self.trainer.estimated_stepping_batches,
            warmup_ratio=self.hparams["warmup_ratio"],
            schedule=self.hparams["lr_schedule"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
