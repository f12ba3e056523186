"""Random changes to a whole batch of images: one draw per image, no loop, on the batch's device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability 1/2.

    Args:
        images: (B, C, H, W), any type.

    Returns:
        A new tensor of the same shape and type.
    """
    flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Moves each image by up to ``pixels`` along both axes; zeros come in from outside.

    Args:
        images: (B, C, H, W), any type.
        pixels: Largest shift; each whole number from ``-pixels`` to ``pixels`` is equally likely.

    Returns:
        A new tensor of the same shape and type.
    """
    batch, _, height, width = images.shape
    # Every possible crop of the padded images as a view: (B, C, 2p+1, 2p+1, H, W), no copy.
    crops = F.pad(images, (pixels,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    dy, dx = torch.randint(2 * pixels + 1, (2, batch), device=images.device)
    return crops[torch.arange(batch, device=images.device), :, dy, dx]
