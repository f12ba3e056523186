import pytest
import torch
import torch.nn.functional as F
from torchmetrics.classification import MulticlassAccuracy

from fmnist.metrics import LossAndAccuracy


def test_equals_torchmetrics_and_the_mean_over_unequal_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(130, 10), torch.randint(0, 10, (130,))
    metrics, accuracy = LossAndAccuracy(), MulticlassAccuracy(10, average="micro")
    for part in (slice(0, 64), slice(64, 128), slice(128, 130)):
        metrics.update(logits[part], labels[part], F.cross_entropy(logits[part], labels[part]))
        accuracy.update(logits[part], labels[part])
    values = metrics.compute()
    assert values["acc"] == accuracy.compute()
    assert values["loss"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert values["count"] == 130


def test_reset_forgets():
    metrics = LossAndAccuracy()
    metrics.update(torch.eye(3), torch.arange(3), torch.tensor(7.0))
    metrics.reset()
    metrics.update(torch.eye(3), torch.tensor([0, 0, 0]), torch.tensor(1.0))
    assert metrics.compute()["loss"] == 1
    assert metrics.compute()["acc"] == pytest.approx(1 / 3)
