"""What is minimized: cross-entropy, with mixup, class weights and label smoothing."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Objective:
    """The loss of a training step.

    Args:
        num_classes: Number of classes.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).
        mixup: Both parameters of the Beta distribution of ``mixup``; 0 for none.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, mixup: float = 0.0) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.weights: Tensor | None = None  # of the classes, float (C,); known when the data is

    def mix_batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images and targets of a step: labels, or probabilities where images are mixed.

        Args:
            images: uint8 (B, 1, 28, 28).
            labels: int64 (B,).
        """
        if not self.mixup:
            return images, labels
        one_hot = F.one_hot(labels, self.num_classes).to(torch.get_default_dtype())
        return mixup(images, one_hot, self.mixup)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch.

        Args:
            logits: float (B, num_classes).
            targets: Labels, int64 (B,), or probabilities, float (B, num_classes).
        """
        return F.cross_entropy(logits, targets, self.weights, label_smoothing=self.label_smoothing)


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


def balance(counts: Tensor) -> Tensor:
    """Returns a weight per class, the inverse of its share, so that all classes count the same together.

    Args:
        counts: Images of each class, int64 (C,); a class without any gets the weight 0.
    """
    return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)
