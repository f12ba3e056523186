"""Temperature scaling: one number that calibrates probabilities."""

import math

import torch
from torch import Tensor

LIMIT = 100.0  # the temperature stays between 1 / LIMIT and LIMIT
PRIOR = 30.0  # images that a temperature of 1 is worth: benchmarks/calibration.py
FEW = 500  # images from which on calibration has made nothing worse: the same benchmark


def fit_temperature(logits: Tensor, labels: Tensor, prior: float = PRIOR) -> float:
    """Finds the temperature with which ``softmax(logits / temperature)`` fits the labels best.

    Temperature scaling, Guo et al. 2017, https://arxiv.org/abs/1706.04599, with a prior that fades with the
    number of images: few images, or images without a mistake, are little evidence of how sure the network may be. With
    ``beta = 1 / temperature`` the sum of ``-log p`` over the images plus ``prior * (beta - 1 - log(beta))`` is
    minimized, which is a Gamma distribution of ``beta`` whose mode is 1. Both terms are convex in ``beta``, so
    Newton's method, kept inside a shrinking interval, finds the only minimum.

    Args:
        logits: float (N, num_classes) of images that were not trained on.
        labels: int64 (N,).
        prior: Weight of the prior, in images; 0 for none.

    Returns:
        The temperature; 1 if the logits are all equal or not finite.
    """
    # (N, num_classes): how far each logit is above that of the right class
    margins = logits.double() - logits.double().gather(1, labels.unsqueeze(1))
    if not margins.isfinite().all() or not margins.any():
        return 1.0
    weight = prior / len(margins)
    low, high, beta = 1 / LIMIT, LIMIT, 1.0
    for _ in range(100):
        probabilities = torch.softmax(beta * margins, dim=1)
        mean = (probabilities * margins).sum(1)
        slope = mean.mean().item() + weight * (1 - 1 / beta)
        curvature = ((probabilities * margins**2).sum(1) - mean**2).mean().item() + weight / beta**2
        low, high = (low, beta) if slope > 0 else (beta, high)
        newton = beta - slope / curvature if curvature > 0 else 0.0
        previous, beta = beta, newton if low < newton < high else math.sqrt(low * high)
        if abs(beta - previous) < 1e-9 * beta:
            break
    return 1 / beta
