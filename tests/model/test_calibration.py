import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from fmnist.model.calibration import LIMIT, PRIOR, fit_temperature


def sample(scale, classes=10, size=2000, noise=2.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (size,), generator=generator)
    logits = F.one_hot(labels, classes) * 2.0 + noise * torch.randn(size, classes, generator=generator)
    return scale * logits, labels


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("scale", [0.05, 0.3, 1, 4, 20])
@pytest.mark.parametrize("prior", [0, PRIOR])
def test_finds_the_optimum_that_scipy_finds(scale, classes, prior):
    logits, labels = sample(scale, classes)

    def loss(beta):
        return F.cross_entropy(beta * logits.double(), labels).item() + prior / len(labels) * (beta - 1 - np.log(beta))

    best = minimize_scalar(loss, bounds=(1 / LIMIT, LIMIT), method="bounded", options={"xatol": 1e-10})
    assert fit_temperature(logits, labels, prior) == pytest.approx(1 / best.x, rel=1e-4, abs=1e-4)


def test_scaling_the_logits_scales_the_temperature():
    logits, labels = sample(1)
    assert fit_temperature(3 * logits, labels, 0) == pytest.approx(3 * fit_temperature(logits, labels, 0), rel=1e-6)


def test_order_of_the_samples_does_not_matter():
    logits, labels = sample(1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    assert fit_temperature(logits[order], labels[order]) == pytest.approx(fit_temperature(logits, labels), rel=1e-9)


def test_perfect_and_hopeless_predictions_stay_within_limits():
    labels = torch.arange(10)
    perfect = F.one_hot(labels).float()
    assert fit_temperature(perfect, labels, 0) == pytest.approx(1 / LIMIT, rel=1e-3)
    assert fit_temperature(-perfect, labels, 0) == pytest.approx(LIMIT, rel=1e-3)


@pytest.mark.parametrize("size", [24, 100])
def test_few_images_without_a_mistake_do_not_make_anything_certain(size):
    labels = torch.arange(size) % 3
    logits = 4.0 * F.one_hot(labels).float() + torch.randn(size, 3, generator=torch.Generator().manual_seed(0)) / 4
    assert (logits.argmax(1) == labels).all()
    assert 0.4 < fit_temperature(logits, labels) < 1
    assert fit_temperature(logits, labels, 0) < 0.1


def test_the_prior_fades_with_the_number_of_images():
    few, many = (sample(4, size=size) for size in (50, 5000))
    moved = [abs(fit_temperature(*part) / fit_temperature(*part, 0) - 1) for part in (few, many)]
    assert moved[1] < 0.03 < moved[0]


@pytest.mark.parametrize("logits", [torch.zeros(5, 10), torch.full((5, 10), torch.nan), torch.full((5, 10), torch.inf)])
def test_logits_that_say_nothing_are_left_alone(logits):
    assert fit_temperature(logits, torch.arange(5)) == 1
