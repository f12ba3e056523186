"""The network: uint8 images in, logits out. It knows nothing of Lightning."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Statistics = float | Sequence[float]  # of the pixels: one number, or one for each channel
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class PixelNormalization(nn.Module):
    """Computes ``(pixel / 255 - mean) / std`` of uint8 images: the first layer of every network.

    Floats are already divided by 255, as torchvision's ``ToTensor`` returns them.

    Args:
        mean: Mean of the pixels, on a scale from 0 to 1; one for all channels or a list with one for each.
        std: Standard deviation of the pixels, on the same scale.
    """

    def __init__(self, mean: Statistics = 0.2860, std: Statistics = 0.3530) -> None:
        super().__init__()
        # A zero that moves with the network: what it is added to gets the network's device and type (float64, too).
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.zero: Tensor
        self.set_statistics(mean, std)

    def set_statistics(self, mean: Statistics, std: Statistics) -> None:
        """Sets mean and standard deviation of the pixels, on a scale from 0 to 1."""
        # (pixel / 255 - mean) / std is the same as offset + scale * pixel: one multiplication and one addition.
        # Numbers, not buffers: a factor that is a tensor takes a second pass over memory, and averaging changes it.
        means, stds = ([*values] if isinstance(values, Sequence) else [values] for values in (mean, std))
        count = max(len(means), len(stds))
        means, stds = (values * count if len(values) == 1 else values for values in (means, stds))
        self.steps = [(1 / (255 * s), -m / s) for m, s in zip(means, stds, strict=True)]  # scale and offset

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, C, H, W), to the same shape in the network's type."""
        parts = torch.split(images, 1, 1) if len(self.steps) > 1 else [images]
        scaled = [self._scale(part, *step) for part, step in zip(parts, self.steps, strict=True)]
        return torch.cat(scaled, 1) if len(scaled) > 1 else scaled[0]

    def _scale(self, images: Tensor, scale: float, offset: float) -> Tensor:
        if images.is_floating_point():
            return torch.add(self.zero + offset, images.to(self.zero.dtype), alpha=255 * scale)
        # offset + scale * images in one pass over memory, without a float copy of the bytes.
        return torch.add(self.zero + offset, images, alpha=scale)


class MLP(nn.Sequential):
    """A multilayer perceptron on the pixels of an image.

    Maps images, uint8 (B, C, H, W), to logits, float (B, num_classes). Each hidden layer is
    linear -> normalization -> activation -> dropout. ``nn.Sequential`` calls its layers one after the other, so there
    is no ``forward`` to write.

    Args:
        num_classes: Number of outputs.
        hidden_dims: Width of each hidden layer; empty for a linear classifier.
        dropout: Probability with which a hidden unit is zeroed in training, in [0, 1).
        normalization: Batch normalization in each hidden layer, or none.
        activation: Non-linearity of the hidden layers.
        mean: Mean of the pixels of the training set, from 0 to 1; see ``PixelNormalization``.
        std: Standard deviation of the same pixels.
        image_shape: Channels, height and width of the images.
    """

    def __init__(
        self,
        num_classes: int = 10,
        hidden_dims: Sequence[int] = (512, 512),
        dropout: float = 0.0,
        normalization: Literal["none", "batch"] = "none",
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        mean: Statistics = 0.2860,
        std: Statistics = 0.3530,
        image_shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        widths = [math.prod(image_shape), *hidden_dims]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):  # (784, 512), (512, 512)
            # Batch normalization subtracts the mean, so a bias before it would do nothing.
            layers.append(nn.Linear(inputs, outputs, bias=normalization == "none"))
            if normalization == "batch":
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(ACTIVATIONS[activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(widths[-1], num_classes))
        # Named "0", "flatten", "1", "2", ...: the numbers are those of the plain nn.Sequential in the README.
        first = {"0": PixelNormalization(mean, std), "flatten": nn.Flatten()}
        super().__init__(OrderedDict(first | {str(number): layer for number, layer in enumerate(layers, 1)}))
