import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn import metrics as sklearn
from torchmetrics.classification import MulticlassAccuracy

from fmnist.evaluation.scores import reliability, risk_coverage, score, score_classes, wilson_interval
from fmnist.training.metrics import LossAndAccuracy, Outputs

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(10, (3000,), generator=GENERATOR)
LOGITS = F.one_hot(LABELS, 10) * 2 + 2 * torch.randn(3000, 10, generator=GENERATOR)
TEMPERATURE = 1.7
PROBABILITIES = torch.softmax(LOGITS.double() / TEMPERATURE, 1).numpy()


def test_cheap_metrics_equal_those_of_torchmetrics():
    ours, reference = LossAndAccuracy(), MulticlassAccuracy(num_classes=10, average="micro")
    for logits, labels in zip(LOGITS.split(40), LABELS.split(40), strict=True):
        ours.update(logits, labels, F.cross_entropy(logits, labels))
        reference.update(logits, labels)
    values = ours.compute()
    assert ours.count == 3000
    assert values["acc"] == reference.compute()
    assert values["loss"].item() == pytest.approx(F.cross_entropy(LOGITS, LABELS).item(), rel=1e-6)


def test_reset_drops_what_was_added():
    metrics = LossAndAccuracy()
    metrics.update(LOGITS, LABELS, torch.tensor(1.0))
    metrics.reset()
    metrics.update(LOGITS[:100], LABELS[:100], torch.tensor(2.0))
    assert metrics.compute()["loss"] == 2
    assert metrics.count == 100


def test_outputs_are_those_of_all_batches():
    outputs = Outputs("logits", "labels")
    for logits, labels in zip(LOGITS.split(700), LABELS.split(700), strict=True):
        outputs.update(logits, labels)
    logits, labels = outputs.compute()
    assert torch.equal(logits, LOGITS)
    assert torch.equal(labels, LABELS)


def test_what_is_not_available_stays_none():
    outputs = Outputs("logits", "typicality")
    outputs.update(LOGITS, None)
    assert outputs.compute()[1] is None


def test_scores_equal_those_of_scikit_learn():
    scores = {name: value.item() for name, value in score(LOGITS, LABELS, TEMPERATURE).items()}
    labels, predicted = LABELS.numpy(), PROBABILITIES.argmax(1)
    assert scores["acc"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert scores["top2_acc"] == pytest.approx(sklearn.top_k_accuracy_score(labels, PROBABILITIES, k=2))
    assert scores["nll"] == pytest.approx(sklearn.log_loss(labels, PROBABILITIES), rel=1e-9)
    assert scores["loss"] == pytest.approx(F.cross_entropy(LOGITS, LABELS).item(), rel=1e-6)
    one_hot = np.eye(10)[labels]
    brier = sum(sklearn.brier_score_loss(one_hot[:, k], PROBABILITIES[:, k]) for k in range(10))
    assert scores["brier"] == pytest.approx(brier, rel=1e-9)


def test_calibration_error_is_the_mean_distance_of_the_bins():
    share, accuracy = reliability(torch.from_numpy(PROBABILITIES), LABELS)
    confidence = PROBABILITIES.max(1)
    bins = (confidence * 15).astype(int)
    means = np.array([confidence[bins == number].mean() if (bins == number).any() else 0 for number in range(15)])
    ece = (share.numpy() * abs(accuracy.numpy() - means)).sum()
    assert score(LOGITS, LABELS, TEMPERATURE)["ece"].item() == pytest.approx(ece, abs=1e-6)
    assert score(LOGITS, LABELS, 1.0)["ece"] == score(LOGITS, LABELS, TEMPERATURE)["ece_uncalibrated"]
    assert share.sum().item() == pytest.approx(1)


def test_a_certain_prediction_falls_into_the_last_bin():
    share, accuracy = reliability(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert (share[-1], accuracy[-1]) == (1, 0.5)


def test_risk_and_coverage_are_those_computed_by_hand():
    def of(right, confidences):
        """Two classes, the first of which is predicted with these confidences."""
        confident = torch.tensor(confidences, dtype=torch.float64)
        return torch.stack([confident, 1 - confident], 1), 1 - torch.tensor(right)

    # from the most confident: right; one of two equal ones right (half an error after the first of them); right; wrong
    probabilities, labels = of([0, 1, 1, 0, 1], [0.6, 0.9, 0.8, 0.8, 0.7])
    for order in ([0, 1, 2, 3, 4], [3, 1, 0, 2, 4]):
        coverage, risk, separable = risk_coverage(probabilities[order], labels[order])
        assert coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1]
        assert risk.tolist() == pytest.approx([0, 0.5 / 2, 1 / 3, 1 / 4, 2 / 5])
        assert separable.tolist() == [True, False, True, True, True]
        scores = score(probabilities[order].log(), labels[order], 1.0)
        assert scores["aurc"].item() == pytest.approx((1 / 4 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
        assert scores["coverage_at_95"] == scores["coverage_at_99"] == 0.2

    # the most confident of a hundred is wrong, then 30 are right, then 69 equal ones of which 2 are wrong
    probabilities, labels = of([0] + [1] * 97 + [0] * 2, [0.99 - i / 1000 for i in range(31)] + [0.9] * 69)
    hundred = score(probabilities.log(), labels, 1.0)
    assert (hundred["coverage_at_95"], hundred["coverage_at_99"]) == (1, 0)


def test_scores_of_classes_equal_those_of_scikit_learn():
    predicted = LOGITS.argmax(1)
    predicted[predicted == 3] = 4  # class 3 is never predicted
    ours = score_classes(predicted, LABELS, 11)  # class 10 does not occur
    pair = (LABELS.numpy(), predicted.numpy())
    reference = sklearn.precision_recall_fscore_support(*pair, labels=range(11), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), reference, strict=True):
        assert ours[name].numpy() == pytest.approx(values, rel=1e-6)
    assert (ours["confusion_matrix"].numpy() == sklearn.confusion_matrix(*pair, labels=range(11))).all()


@pytest.mark.parametrize(("correct", "count"), [(9040, 10_000), (0, 10), (10, 10), (1, 1), (1, 3)])
def test_interval_equals_that_of_scipy(correct, count):
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson_interval(correct, count) == pytest.approx((interval.low, interval.high), abs=1e-6)
