"""What is measured: cheaply in every training step, thoroughly in an evaluation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

ECE_BINS = 15


def score(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    """Measures predictions; everything is a mean over the samples.

    Args:
        logits: float (N, num_classes).
        labels: int64 (N,).
        temperature: What the logits are divided by before they become probabilities.

    Returns:
        ``acc`` and ``top2_acc`` (from 0 to 1); ``loss``, the cross-entropy of the logits; and of the
        probabilities ``nll`` (their cross-entropy), ``brier`` (squared error summed over the classes,
        from 0 to 2), ``ece`` (expected calibration error, Guo et al. 2017, 15 bins, from 0 to 1), and
        ``ece_uncalibrated``, the same with a temperature of 1; ``coverage_at_95`` and ``coverage_at_99``,
        the largest share of the samples that can be answered, the most confident first, so that at least
        95% or 99% of the answers are right; ``aurc``, the area under the risk-coverage curve.
    """
    logits = logits.double()
    probabilities = torch.softmax(logits / temperature, dim=1)
    classes = logits.shape[1]
    one_hot = F.one_hot(labels, classes)
    coverage, risk, separable = risk_coverage(probabilities, labels)
    return {
        "acc": (logits.argmax(1) == labels).double().mean(),
        "top2_acc": (logits.topk(min(2, classes)).indices == labels.unsqueeze(1)).any(1).double().mean(),
        "loss": F.cross_entropy(logits, labels),
        "nll": F.cross_entropy(logits / temperature, labels),
        "brier": (probabilities - one_hot).square().sum(1).mean(),
        "ece": multiclass_calibration_error(probabilities, labels, classes, ECE_BINS),
        "ece_uncalibrated": multiclass_calibration_error(torch.softmax(logits, 1), labels, classes, ECE_BINS),
        **{
            f"coverage_at_{percentage}": (coverage * (separable & (risk <= 1 - percentage / 100))).max()
            for percentage in (95, 99)
        },
        "aurc": risk.mean(),
    }


def risk_coverage(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes how often answers are wrong if only the most confident predictions are given as answers.

    Geifman and El-Yaniv 2017, https://arxiv.org/abs/1705.08500. Predictions of equal confidence count as if in
    random order, so the curve does not depend on the order of the samples.

    Args:
        probabilities: float (N, num_classes); the confidence is the largest of a row.
        labels: int64 (N,).

    Returns:
        For the 1, 2, ..., N most confident predictions, each (N,): their share of all samples (coverage) and the
        share of them that is wrong (risk), float64; and whether a threshold separates them from the rest, bool.
    """
    confidence, predicted = probabilities.max(1)
    confidence, order = confidence.sort(descending=True, stable=True)
    _, group, sizes = torch.unique_consecutive(confidence, return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0)
    errors = (predicted != labels)[order].cumsum(0)[ends - 1]
    rates = errors.diff(prepend=errors.new_zeros(1)).double() / sizes  # of each group of equal confidence
    counts = torch.arange(1, len(labels) + 1, device=labels.device)
    expected = errors[group] - rates[group] * (ends[group] - counts)
    return counts.double() / len(labels), expected / counts, counts == ends[group]


def reliability(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compares how sure predictions are with how often they are right, in 15 bins of equal width.

    Args:
        probabilities: float (N, num_classes).
        labels: int64 (N,).

    Returns:
        For each bin of the predicted class's probability, float (15,): the share of the samples, and
        their accuracy, which is 0 in an empty bin.
    """
    confidence, predicted = probabilities.max(1)
    bins = (confidence * ECE_BINS).long().clamp(max=ECE_BINS - 1)
    counts = torch.bincount(bins, minlength=ECE_BINS)
    right = torch.bincount(bins, (predicted == labels).double(), ECE_BINS)
    return counts / counts.sum(), right / counts.clamp(min=1)


def score_classes(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Measures the predictions class by class.

    Args:
        predicted: Predicted classes, int64 (N,).
        labels: Actual classes, int64 (N,).
        classes: Number of classes C.

    Returns:
        ``precision``, ``recall`` and ``f1``, float (C,), 0 where they are undefined; ``support``, the
        samples of each class, int64 (C,); ``confusion_matrix``, int64 (C, C), a row per actual class.
    """
    measures = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    measured = {name: measure(predicted, labels, classes, average="none") for name, measure in measures.items()}
    matrix = multiclass_confusion_matrix(predicted, labels, classes)
    return {**measured, "support": matrix.sum(1), "confusion_matrix": matrix}


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Returns the 95% confidence interval of a share (Wilson 1927), from 0 to 1."""
    z = 1.959964
    share = correct / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
