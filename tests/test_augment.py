import torch

from fmnist.augment import random_flip, random_shift


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
