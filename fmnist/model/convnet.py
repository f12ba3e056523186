"""A small convolutional network for images of any size and number of channels."""

import warnings
from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvNet(nn.Sequential):
    """Three blocks of two convolutions, pooling between them, and a linear layer on the means of the last channels.

    Maps normalized images, float (B, C, H, W), of 4 x 4 pixels or more, to logits, float (B, num_classes). Each
    convolution is followed by batch normalization and ReLU.

    Args:
        num_classes: Number of outputs.
        width: Channels of the first block; each of the next has twice as many.
        dropout: Probability with which an input of the linear layer is zeroed in training, in [0, 1).
    """

    def __init__(self, num_classes: int, width: int = 24, dropout: float = 0.0) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that lazy layers are new, as they have been since 2021
            first = nn.LazyConv2d(width, kernel_size=3, padding=1, bias=False)  # for the channels of the first images
        layers: list[nn.Module] = [first, nn.BatchNorm2d(width), nn.ReLU()]
        for channels_in, channels in pairwise([width, width, 2 * width, 2 * width, 4 * width, 4 * width]):
            if channels > channels_in:
                layers.append(nn.MaxPool2d(2))
            layers += [
                nn.Conv2d(channels_in, channels, kernel_size=3, padding=1, bias=False),  # (B, channels, H, W)
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width, num_classes)]
        super().__init__(*layers, *head)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalized images to logits; channels lie next to each other in memory, which is faster on CPUs."""
        for layer in self:  # each time: of a single channel the first layer makes channels far apart
            if images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            images = layer(images)
        return images
