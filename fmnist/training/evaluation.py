"""A trained model under Lightning's trainer: each image goes through each network once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fmnist.errors import check
from fmnist.evaluation.scores import score
from fmnist.model.network import describe_shape
from fmnist.model.trained import Output, TrainedModel
from fmnist.training.metrics import Outputs


class Evaluated(NamedTuple):
    """What an evaluation has found, in the order of the data, on the CPU."""

    output: Output
    """What the model computed for the images."""
    labels: Tensor
    """int64 (N,)."""
    scores: dict[str, Tensor]
    """What ``score`` makes of them."""


class Evaluator(LightningModule):
    """Has a trainer evaluate a trained model, which may be an ensemble.

    After ``validate``, ``test`` or ``predict`` the result is in ``evaluated``, on every process.

    Args:
        model: The model, on the device of the trainer; a subclass that trains one has none yet.
    """

    def __init__(self, model: TrainedModel | None = None) -> None:
        super().__init__()
        # In a list: a trainer would convert the calibration of a submodule to its own precision.
        self.models = [model] if model else []
        self.outputs = Outputs(*Output._fields, "labels")
        self.evaluated: Evaluated | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.models[0].class_names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return self.models[0].image_shape

    def setup(self, stage: str) -> None:
        """Compares classes and shape of the images with those of the data module.

        Raises:
            UserError: They differ.
        """
        self.evaluated = None
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "class_names"):
            self.check_data(data.class_names, getattr(data, "image_shape", self.image_shape), "the data has")

    def check_data(self, names: list[str], shape: Sequence[int], whose: str) -> None:
        """Raises a ``UserError`` if the model has other classes, or takes images of another shape."""
        known, fits = self.class_names, tuple(shape) == self.image_shape
        check(known == names, f"the model predicts {', '.join(known)}; {whose} {', '.join(names)}")
        check(fits, f"the model takes images of {describe_shape(self.image_shape)}; {whose} {describe_shape(shape)}")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        """Collects what the model computes for a batch, and returns it."""
        output = self.predict(batch[0])
        self.outputs.update(*output, batch[1])
        return output

    validation_step = predict_step = test_step

    def predict(self, images: Tensor) -> Output:
        """Computes the output for images, in float32 whatever the trainer's precision for training is."""
        with torch.autocast(self.device.type, enabled=False):
            return self.models[0].predict(images)

    def on_test_epoch_end(self) -> None:
        """Puts what all processes have collected together, as ``evaluated``."""
        if self.outputs.update_called:
            *fields, labels = self.outputs.compute()
            self.outputs.reset()
            output, temperature = Output(*fields), self.models[0].temperature.item()
            self.evaluated = Evaluated(output, labels, score(output.logits, labels, temperature))

    on_validation_epoch_end = on_predict_epoch_end = on_test_epoch_end
