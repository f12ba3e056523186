import pytest
import torch

from fmnist.data.augment import random_flip, random_shift
from fmnist.training.loss import mixup


def numbered(batch=400, size=5):
    """Images whose pixels are all different and never zero."""
    return torch.arange(1, size * size + 1, dtype=torch.uint8).reshape(1, 1, size, size).repeat(batch, 1, 1, 1)


def test_flip_mirrors_about_half_of_the_images():
    images = numbered()
    result = random_flip(images)
    mirrored = (result == images.flip(-1)).all(dim=(1, 2, 3))
    kept = (result == images).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 140 < mirrored.sum() < 260  # 6 standard deviations


def test_shift_draws_every_offset_for_each_image_by_itself():
    images = numbered()
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    offsets = {(dy, dx): padded[:1, :, dy : dy + 5, dx : dx + 5] for dy in range(3) for dx in range(3)}
    result = random_shift(images, 1)
    counts = [int((result == crop).all(dim=(1, 2, 3)).sum()) for crop in offsets.values()]
    assert sum(counts) == 400
    assert min(counts) > 10


def test_shape_and_type_stay():
    for result in (random_flip(numbered()), random_shift(numbered(), 2), random_shift(numbered(), 0)):
        assert result.shape == (400, 1, 5, 5)
        assert result.dtype == torch.uint8
    assert torch.equal(random_shift(numbered(), 0), numbered())


def test_same_seed_same_draw():
    images = numbered()
    torch.manual_seed(3)
    first = random_shift(random_flip(images), 2)
    torch.manual_seed(3)
    assert torch.equal(random_shift(random_flip(images), 2), first)


def blended(alpha):
    """Pairs up 400 images of one value each; the targets are the same values. Returns both after ``mixup``."""
    values = torch.arange(400.0) / 400
    images = (values * 255)[:, None, None, None].expand(-1, 1, 5, 5)
    return values, *mixup(images, torch.stack([values, 1 - values], dim=1), alpha)


def test_mixup_blends_images_and_targets_alike():
    _, images, targets = blended(1.0)
    torch.testing.assert_close(images / 255, targets[:, :1, None, None].expand_as(images))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(400))


def test_mixup_leaves_the_larger_share_to_the_image():
    torch.manual_seed(0)
    one_hot = torch.eye(400)
    _, targets = mixup(torch.zeros(400, 1, 5, 5, dtype=torch.uint8), one_hot, 1.0)
    own = targets.diagonal()
    assert own.min() >= 0.5
    assert own.mean() == pytest.approx(0.75, abs=0.03)  # a share drawn from Beta(1, 1) is uniform
    assert ((targets > 0).sum(dim=1) <= 2).all()


def test_little_mixup_leaves_most_images_almost_alone():
    values, _, targets = blended(0.05)
    assert ((targets[:, 0] - values).abs() < 0.02).float().mean() > 0.7


def test_mixup_rounds_bytes():
    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 5, 5).repeat(100, 1, 1, 1)
    result, targets = mixup(images, torch.eye(2).repeat(100, 1), 1.0)
    assert result.dtype == torch.uint8
    assert torch.equal(result[:, 0, 0, 0].float(), (255 * targets[:, 1]).round())
