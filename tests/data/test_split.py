import pytest
import torch

from fmnist import ImageFolder
from fmnist.data.split import deal_folds, hold_out, split_by_content, stratified_split


def test_split_of_unequal_classes_keeps_their_shares():
    labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 99 + [3])
    train, val = stratified_split(labels, 100, seed=0)
    assert len(val) == 100
    assert len(train) == 900
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(1000))
    counts = labels[val].bincount(minlength=4)
    assert (counts - torch.tensor([70, 20, 10, 0])).abs().max() <= 1


def spread(count):
    """Digests without a pattern."""
    return torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(count))


def test_sizes_are_met_approximately():
    digests, labels = torch.arange(5000) * 7919, torch.arange(5000) % 10
    stay, taken = split_by_content(digests, labels, 0.2, "a")
    assert 900 < len(taken) < 1100
    assert sorted([*stay.tolist(), *taken.tolist()]) == [*range(5000)]
    assert not torch.equal(taken, split_by_content(digests, labels, 0.2, "b")[1])


@pytest.mark.parametrize("test_size", [0.1, 0.2, 0.5, 90])
@pytest.mark.parametrize("part", [0.1, 0.2, 0.3, 0.5, 100, "1/5", "2/4"])
@pytest.mark.parametrize("split_seed", [0, 1, 7])
def test_sizes_are_those_of_independent_draws(test_size, part, split_seed):
    """A part is cut off by a hash of its own, so what the other cut has taken plays no role."""
    count, images = 900, torch.zeros(0)
    labels, digests = torch.arange(count) % 3, spread(count)
    source = ImageFolder("photos", test_size=test_size)
    rest, test = source._split(labels, digests)
    _, val = hold_out(images, labels[rest], digests[rest], True, part, split_seed)
    share = test_size if test_size < 1 else test_size / count
    assert abs(len(test) - share * count) < 3 * (count * share * (1 - share)) ** 0.5
    if isinstance(part, str):
        assert abs(len(val) - len(rest) / int(part[-1])) < 1
        return
    share = part if part < 1 else part / len(rest)
    assert abs(len(val) - share * len(rest)) < 3 * (len(rest) * share * (1 - share)) ** 0.5
    assert labels[rest][val].bincount(minlength=3).min() >= 1


def test_copies_of_a_picture_stay_together_whatever_their_labels():
    for number in range(100):
        own, twins = spread(20 + number), spread(3 + number)[:3]
        digests = torch.cat([own[:10], twins, own[10:20], twins])
        labels = torch.tensor([0] * 13 + [1] * 13)
        for by_content in (True, False):
            train, val = hold_out(torch.zeros(0), labels, digests, by_content, 0.3, number)
            assert len(train) + len(val) == 26
            assert not torch.isin(digests[val], digests[train]).any()
            assert [labels[part].unique().tolist() for part in (train, val)] == [[0, 1]] * 2


def test_folds_do_not_depend_on_the_order_of_the_images():
    digests, labels = torch.arange(100) ** 3, torch.arange(100) % 7
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(deal_folds(digests[order], labels[order], 4, 0), deal_folds(digests, labels, 4, 0)[order])
