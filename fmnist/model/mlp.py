"""The network: uint8 images in, logits out. It knows nothing of Lightning."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fmnist.errors import check

ROUNDING = 0.01  # what interpolation may add to pixels
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class PixelNormalization(nn.Module):
    """Turns the pixels of uint8 images into ``(pixel / 255 - mean) / std``: the first layer of every network.

    Floats are taken as torchvision's ``ToTensor`` gives them, divided by 255 already.

    Args:
        mean: Mean of the pixels, on a scale from 0 to 1.
        std: Standard deviation of the pixels, on the same scale.
    """

    def __init__(self, mean: float = 0.2860, std: float = 0.3530) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows the network's device and type
        self.zero: Tensor
        self.set_statistics(mean, std)

    def set_statistics(self, mean: float, std: float) -> None:
        """Sets mean and standard deviation of the pixels, on a scale from 0 to 1."""
        # Numbers, not buffers: a factor that is a tensor takes a second pass over memory, and averaging changes it.
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, 1, 28, 28), to the same shape in the network's type.

        Bytes take one pass over memory.
        """
        if images.is_floating_point():
            return torch.add(self.zero + self.offset, images.to(self.zero.dtype), alpha=255 * self.scale)
        return torch.add(self.zero + self.offset, images, alpha=self.scale)


def check_pixels(images: Tensor) -> None:
    """Refuses floats that do not lie between 0 and 1: such images have been normalized already, or not yet divided.

    Args:
        images: (B, 1, 28, 28); bytes are not looked at, which would make the device wait.
    """
    if not images.is_floating_point() or torch.compiler.is_compiling():
        return
    low, high = images.aminmax()
    check(
        bool(low >= -ROUNDING) and bool(high <= 1 + ROUNDING),
        f"images of floats must lie between 0 and 1, as ToTensor() gives them: here are {low:.2f} to {high:.2f}; "
        f"leave out Normalize(), or give uint8: the network normalizes by itself",
    )


class MLP(nn.Sequential):
    """A multilayer perceptron on the pixels of an image.

    Maps images, uint8 (B, 1, 28, 28), to logits, float (B, num_classes). Each hidden layer is
    linear -> normalization -> activation -> dropout.

    Args:
        num_classes: Number of outputs.
        hidden_dims: Width of each hidden layer; empty for a linear classifier.
        dropout: Probability with which a hidden unit is zeroed in training, in [0, 1).
        normalization: Batch normalization in each hidden layer, or none.
        activation: Non-linearity of the hidden layers.
        mean: Mean of the pixels of the training set, from 0 to 1.
        std: Standard deviation of the same pixels.
    """

    def __init__(
        self,
        num_classes: int = 10,
        hidden_dims: Sequence[int] = (512, 512),
        dropout: float = 0.0,
        normalization: Literal["none", "batch"] = "none",
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        mean: float = 0.2860,
        std: float = 0.3530,
    ) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([28 * 28, *hidden_dims]):
            # Batch normalization subtracts the mean, so a bias before it would do nothing.
            layers.append(nn.Linear(fan_in, fan_out, bias=normalization == "none"))
            if normalization == "batch":
                layers.append(nn.BatchNorm1d(fan_out))
            layers.append(ACTIVATIONS[activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear([28 * 28, *hidden_dims][-1], num_classes))
        # The names keep the numbers that layers have in every checkpoint, where flattening was no layer.
        first = {"0": PixelNormalization(mean, std), "flatten": nn.Flatten()}
        super().__init__(OrderedDict(first | {str(number): layer for number, layer in enumerate(layers, 1)}))
