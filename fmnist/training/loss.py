"""Mixup, and weights of the classes for cross-entropy."""

import torch
from torch import Tensor


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixes each image and its target with another of the batch (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: (B, C, H, W), uint8 or floating point.
        targets: Probabilities of the classes, floating point (B, K).
        alpha: Both parameters of the Beta distribution that an image's share in its blend is drawn from;
            the larger share is always the image's own.

    Returns:
        New images and targets of the same shapes and types.
    """
    share = torch.distributions.Beta(alpha, alpha).sample((len(images),))  # on the CPU: MPS cannot draw it
    share = torch.maximum(share, 1 - share).to(targets)
    partner = torch.randperm(len(images), device=images.device)
    blended = images.index_select(0, partner).to(targets).lerp_(images.to(targets), share[:, None, None, None])
    if not images.is_floating_point():
        blended.round_()
    return blended.to(images.dtype), torch.lerp(targets[partner], targets, share[:, None])


def balance(counts: Tensor) -> Tensor:
    """Returns a weight per class, inverse to its share, so that each class counts the same in the loss.

    Args:
        counts: Images of each class, int64 (C,); a class without any gets the weight 0.
    """
    return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)
