"""What surrounds the steps of a classifier: metrics, calibration, typicality, seeds, and the content of checkpoints."""

import os
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from fmnist.data.sources.fashion_mnist import FashionMNIST
from fmnist.errors import check
from fmnist.evaluation.scores import score
from fmnist.model.calibration import fit_temperature
from fmnist.model.mlp import Statistics
from fmnist.model.trained import Output, TrainedModel
from fmnist.model.typicality import TypicalityFitter
from fmnist.seeds import global_seed, mix_seeds
from fmnist.training.evaluation import Evaluator
from fmnist.training.metrics import LossAndAccuracy, Outputs
from fmnist.training.optimization import begin_epoch, check_loss


class CalibratedModule(Evaluator):
    """A classifier that is measured and calibrated after every epoch, whose randomness is a function of seed and epoch.

    A subclass builds ``network``, has ``class_names``, ``image_shape``, ``mean`` and ``std`` among its
    hyper-parameters, and in its steps updates ``train_metrics``, or ``val_outputs`` and ``val_inputs``.
    """

    temperature: Tensor
    network: nn.Module

    def __init__(self) -> None:
        super().__init__()
        # Divides the logits, so that a probability of 0.8 is right in 80% of the cases (Guo et al. 2017).
        self.register_buffer("temperature", torch.ones(()))
        self.train_metrics = LossAndAccuracy()
        self.val_outputs = Outputs("logits", "labels")
        self.val_inputs = Outputs("images", "features")
        self.typicality = TypicalityFitter()
        self.conversion: dict[str, Any] = {"name": "distance", "transform": None}
        self.seed = 0
        self._process = os.getpid()  # a strategy that spawns trains a copy in another process
        self._fitted_temperature: float | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        names: list[str] = self.hparams["class_names"]
        return names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return tuple(self.hparams["image_shape"])

    def trained(self) -> TrainedModel:
        """Returns a copy of the network as it is now, with its calibration and its classes."""
        model = TrainedModel(deepcopy(self.network), self.class_names, self.typicality.state, self.image_shape)
        model.temperature = self.temperature.clone()
        return model.to(self.device).eval()

    def on_test_start(self) -> None:
        """Evaluates a copy."""
        self.models = [self.trained()]

    on_predict_start = on_test_start

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Output:
        """Returns what the network computes for the images of a batch, calibrated."""
        return self.predict(batch[0])

    def setup(self, stage: str) -> None:
        """Compares classes and shape with those of the data module, and takes conversion and pixel statistics from it.

        Raises:
            UserError: They differ.
        """
        super().setup(stage)
        self.seed = global_seed()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "source"):
            self.conversion = data.source.describe_conversion()
        if stage == "fit":
            self.use_pixel_statistics(*FashionMNIST.pixels)  # unless a data module has set them
            if not self.network.training:
                self.train()  # Lightning would train a network in the evaluation mode that a prediction has left
            self.temperature.fill_(1.0)  # it and typicality are of the weights before
            self._fitted_temperature, self.typicality.state = None, {}
        if self.dtype != torch.get_default_dtype() and self.trainer.precision in ("32-true", "16-mixed", "bf16-mixed"):
            self.to(torch.get_default_dtype())  # from what the trainer before had converted it to
        self.trainer.precision_plugin.convert_module(self)  # before a checkpoint is loaded: 64 bits would be cut to 32

    def use_pixel_statistics(self, mean: Statistics, std: Statistics) -> None:
        """Normalizes pixels by these, where the hyper-parameters leave them open; the data module calls it in ``fit``.

        Args:
            mean: Mean of the training pixels, from 0 to 1; one number, or a list with one for each channel.
            std: Their standard deviation.

        Raises:
            UserError: The process that started the training would not learn of them.
        """
        found = {name: value for name, value in (("mean", mean), ("std", std)) if self.hparams[name] is None}
        if found:
            alone = os.getpid() == self._process or (mean, std) == FashionMNIST.pixels
            check(alone, f"a strategy that spawns or forks returns weights only: give mean={mean}, std={std}")
            self._normalize(found)

    def _normalize(self, found: dict[str, Statistics]) -> None:
        self.hparams.update(found)
        self.network[0].set_statistics(self.hparams["mean"], self.hparams["std"])  # type: ignore[index]

    def on_train_epoch_start(self) -> None:
        """Makes the randomness of the epoch a function of seed, epoch and rank."""
        begin_epoch(self.trainer)
        self.train_metrics.reset()
        torch.manual_seed(mix_seeds(self.seed, self.current_epoch, self.global_rank))

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Logs the metrics of an epoch in its last batch.

        In ``on_train_epoch_end`` it would be too late: Lightning calls the callbacks (checkpoint, early stopping)
        before the module.
        """
        stops = self.trainer.should_stop or self.trainer.global_step == self.trainer.max_steps
        if self.trainer.is_last_batch or stops:
            metrics = self.train_metrics.compute()
            check_loss(metrics["loss"], self.current_epoch + 1, self.trainer.optimizers[0])  # before it is saved
            self._log("train", metrics)

    def on_validation_epoch_end(self) -> None:
        """Fits temperature and typicality in training, and logs the validation metrics."""
        (logits, labels), (images, features) = self.val_outputs.compute(), self.val_inputs.compute()
        self.val_outputs.reset()
        self.val_inputs.reset()
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._fitted_temperature = fit_temperature(logits, labels)
            self.temperature.fill_(self._fitted_temperature)
            self.typicality.fit(images, features, logits)
        scores = score(logits, labels, self.temperature.item())
        self._log("val", {name: scores[name] for name in ("loss", "acc", "ece")})

    def on_test_epoch_end(self) -> None:
        """Logs the scores, and the number of images."""
        super().on_test_epoch_end()
        assert self.evaluated is not None
        self._log("test", {**self.evaluated.scores, "num_samples": torch.tensor(len(self.evaluated.labels))})

    def _log(self, stage: str, metrics: dict[str, Tensor]) -> None:
        shown = {f"{stage}/{name}": value.float() for name, value in metrics.items()}
        self.log_dict(shown, prog_bar=True, on_step=False, on_epoch=True)

    def on_train_end(self) -> None:
        """Restores the fitted temperature: callbacks that average weights average every tensor of the state dict."""
        if self._fitted_temperature:
            self.temperature.fill_(self._fitted_temperature)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the fitted temperature, also where callbacks average the weights, and what is not a weight."""
        checkpoint["state_dict"]["temperature"] = self.temperature.detach().clone()
        checkpoint["conversion"] = self.conversion
        checkpoint["typicality"] = self.typicality.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Loads what is not a weight: normalization and conversion of pictures, and what is typical.

        Raises:
            UserError: The checkpoint has other classes, or images of another shape.
        """
        saved = checkpoint["hyper_parameters"]
        self.check_data(saved["class_names"], saved["image_shape"], "the checkpoint has")
        self._normalize({name: saved[name] for name in ("mean", "std") if saved[name] is not None})
        self.conversion = checkpoint["conversion"]
        self.typicality.state = checkpoint.get("typicality", {})
