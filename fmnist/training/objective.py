"""What is minimized."""

import torch
from torch import Tensor


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blends each image and its target with another of the batch (Zhang et al. 2018, arXiv:1710.09412).

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
    blended = torch.lerp(images[partner].to(targets), images.to(targets), share[:, None, None, None])
    if not images.is_floating_point():
        blended = blended.round()
    return blended.to(images.dtype), torch.lerp(targets[partner], targets, share[:, None])


def balance(labels: Tensor, classes: int) -> Tensor:
    """Returns a weight per class, the inverse of its share, so that all classes count the same together.

    Args:
        labels: int64 (N,).
        classes: Number of classes; one without samples gets the weight 0.
    """
    counts = torch.bincount(labels, minlength=classes)
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0)
