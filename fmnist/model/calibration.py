"""One number that makes probabilities honest."""

import math

import torch
from torch import Tensor

LIMIT = 100.0  # the temperature stays between 1 / LIMIT and LIMIT: a perfect score would send it to 0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Finds the temperature with which ``softmax(logits / temperature)`` fits the labels best.

    Temperature scaling, Guo et al. 2017, https://arxiv.org/abs/1706.04599. The negative
    log-likelihood is convex in 1 / temperature, so Newton's method, kept inside a shrinking
    interval, finds its only minimum.

    Args:
        logits: float (N, num_classes) of images that were not trained on.
        labels: int64 (N,).

    Returns:
        The temperature; 1 if the logits are all equal or not finite.
    """
    # (N, num_classes): how far each logit is above that of the right class
    margins = logits.double() - logits.double().gather(1, labels.unsqueeze(1))
    if not margins.isfinite().all() or not margins.any():
        return 1.0
    low, high, beta = 1 / LIMIT, LIMIT, 1.0  # beta is 1 / temperature
    for _ in range(100):
        probabilities = torch.softmax(beta * margins, dim=1)
        mean = (probabilities * margins).sum(1)
        slope = mean.mean().item()
        curvature = ((probabilities * margins**2).sum(1) - mean**2).mean().item()
        low, high = (low, beta) if slope > 0 else (beta, high)
        newton = beta - slope / curvature if curvature > 0 else 0.0
        previous, beta = beta, newton if low < newton < high else math.sqrt(low * high)
        if abs(beta - previous) < 1e-9 * beta:
            break
    return 1 / beta
