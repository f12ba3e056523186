"""A trained network: what it computes for images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fmnist.model.checks import check_pixels
from fmnist.model.typicality import PenultimateFeatures, Typicality

BATCH = 500  # images that go through a network at once


class Output(NamedTuple):
    """What a trained model computes for B images."""

    logits: Tensor
    """float (B, num_classes)."""
    probabilities: Tensor
    """Calibrated, float32 (B, num_classes)."""
    typicality: Tensor | None
    """Share of the validation images that are less typical, from 0 to 1, float (B,); None if it is not available."""
    members: Tensor | None = None
    """Logits of the members of an ensemble, float (B, M, num_classes)."""

    def rows(self) -> Iterator[tuple[list[float], int, float | None]]:
        """Yields the probabilities, the most probable class and the typicality of each image, as plain numbers."""
        shares = [None] * len(self.logits) if self.typicality is None else self.typicality.tolist()
        return zip(self.probabilities.tolist(), self.probabilities.argmax(1).tolist(), shares, strict=True)


class TrainedModel(nn.Module):
    """A trained network with the temperature of its calibration and the names of its classes.

    Its weights have the names that they have in a checkpoint: ``network.*`` and ``temperature``.

    Args:
        network: Maps images, uint8 (B, 1, 28, 28), to logits, float (B, num_classes).
        class_names: Name of each class.
        typicality: What ``TypicalityFitter.fit`` returned; nothing if it is not available.
    """

    temperature: Tensor

    def __init__(
        self, network: nn.Module, class_names: Sequence[str], typicality: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names = list(class_names)
        self.register_buffer("temperature", torch.ones(()))
        self.typicality = Typicality(typicality) if typicality else None
        self.features = PenultimateFeatures(network) if typicality else None

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, 1, 28, 28), to calibrated probabilities (B, num_classes)."""
        return self.predict(images).probabilities

    def predict(self, images: Tensor) -> Output:
        """Computes all fields in one pass of images, uint8 or floats from 0 to 1, (B, 1, 28, 28)."""
        check_pixels(images)
        logits = self.network(images)
        features = self.features.compute() if self.features else None
        typicality = None
        if self.typicality is not None and features is not None:
            typicality = self.typicality(images, features, logits)
        return Output(logits, calibrate(logits, self.temperature), typicality)

    def predict_in_batches(self, images: Tensor) -> Output:
        """Computes the same for any number of images, uint8 (N, 1, 28, 28); the tensors are on the CPU."""
        with torch.inference_mode():
            parts = [self.predict(part.to(self.temperature.device)) for part in torch.split(images, BATCH)]
        columns: Any = zip(*parts, strict=True)  # a tuple of tensors, or of None, for each field
        whole: Any = (None if rows[0] is None else torch.cat(rows).cpu() for rows in columns)
        return Output(*whole)


def calibrate(logits: Tensor, temperature: Tensor) -> Tensor:
    """Turns logits, float (B, num_classes), into probabilities that fit how often they are right."""
    return torch.softmax(logits.float() / temperature, dim=1)
