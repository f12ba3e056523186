"""A custom network: ``fmnist fit --config configs/convnet.yaml --model.network examples.convnet.ConvNet``."""

from itertools import pairwise

from torch import nn


class ConvNet(nn.Sequential):
    """Three blocks of convolution, batch normalization, ReLU and pooling, and a linear layer.

    Maps normalized images, float (B, 1, 28, 28), to logits, float (B, num_classes).

    Args:
        num_classes: Number of outputs.
        width: Channels of the first block; each of the next has twice as many.
        dropout: Probability with which an input of the linear layer is zeroed in training, in [0, 1).
    """

    def __init__(self, num_classes: int, width: int = 32, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for channels_in, channels in pairwise([1, width, 2 * width, 4 * width]):
            layers += [
                nn.Conv2d(channels_in, channels, kernel_size=3, padding=1, bias=False),  # (B, channels, H, W)
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.MaxPool2d(2),  # H and W: 28, 14, 7, 3
            ]
        super().__init__(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * 3 * 3, num_classes))
