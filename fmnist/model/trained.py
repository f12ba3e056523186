"""A trained network: what it computes for images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fmnist.limits import limit_batch
from fmnist.model.checks import check_pixels
from fmnist.model.network import IMAGE_SHAPE
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
        network: Maps images, uint8 (B, C, H, W), to logits, float (B, num_classes).
        class_names: Name of each class.
        typicality: What ``TypicalityFitter.fit`` returned; nothing if it is not available.
        image_shape: Channels, height and width of the images, (C, H, W).
    """

    temperature: Tensor

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        typicality: Mapping[str, Tensor] | None = None,
        image_shape: Sequence[int] = IMAGE_SHAPE,
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names = list(class_names)
        self.image_shape = tuple(image_shape)
        self.register_buffer("temperature", torch.ones(()))
        self.typicality = Typicality(typicality) if typicality else None
        self.features = PenultimateFeatures(network) if typicality else None

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, C, H, W), to calibrated probabilities (B, num_classes)."""
        return self.predict(images).probabilities

    def predict(self, images: Tensor) -> Output:
        """Computes all fields in one pass of images, uint8 or floats from 0 to 1, (B, C, H, W)."""
        check_pixels(images)
        logits = self.network(images)
        features = self.features.compute() if self.features else None
        typicality = None
        if self.typicality is not None and features is not None:
            typicality = self.typicality(images, features, logits)
        return Output(logits, calibrate(logits, self.temperature), typicality)

    def predict_in_batches(self, images: Any) -> Output:
        """Computes the same for any number of images, uint8 (N, C, H, W), or what has them as slices; on the CPU."""
        size = limit_batch(BATCH, self.image_shape)
        with torch.inference_mode():
            batches = (images[start : start + size] for start in range(0, max(1, len(images)), size))
            parts = [self.predict(batch.to(self.temperature.device)) for batch in batches]
        columns: Any = zip(*parts, strict=True)  # a tuple of tensors, or of None, for each field
        whole: Any = (None if rows[0] is None else torch.cat(rows).cpu() for rows in columns)
        return Output(*whole)


def calibrate(logits: Tensor, temperature: Tensor) -> Tensor:
    """Turns logits, float (B, num_classes), into probabilities that fit how often they are right."""
    return torch.softmax(logits.float() / temperature, dim=1)
