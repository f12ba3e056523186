"""Which pixels decided: it depends on what was learned, and what it points at matters."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fmnist import FashionMNIST, load
from fmnist.model.explain import AGAINST, FOR, draw, occlude, paint
from fmnist.model.mlp import PixelNormalization
from fmnist.model.trained import TrainedModel

COUNT, TENTH = 20, 78


@pytest.fixture(scope="module")
def model(tested):
    """A trained network."""
    return load(tested / "lightning_logs/version_0").model


@pytest.fixture(scope="module")
def images(real_root):
    return FashionMNIST(real_root).load(train=False)[0][:COUNT]


def test_what_it_points_at_matters_more_than_other_pixels(model, images):
    pointed, other = [], []
    for image in images:
        order = occlude(model, image).flatten().argsort(descending=True)
        rest = order[TENTH:][image.flatten()[order[TENTH:]] > 0]
        label = int(model(image[None]).argmax())
        for pixels, left in ((order[:TENTH], pointed), (rest[::2][:TENTH], other)):
            changed = image.clone()
            changed.view(-1)[pixels] = 0
            left.append(model(changed[None])[0, label].item())
    assert np.mean(pointed) < np.mean(other) - 0.3


def test_it_changes_when_the_weights_are_shuffled(model, images):
    shuffled = deepcopy(model)
    for weights in shuffled.parameters():
        weights.data = weights.data.flatten()[torch.randperm(weights.numel())].view_as(weights)
    found = [
        np.corrcoef(occlude(model, image, 0).flatten(), occlude(shuffled, image, 0).flatten())[0, 1] for image in images
    ]
    assert abs(np.mean(found)) < 0.3


def test_colours():
    worth = torch.zeros(28, 28)
    worth[0, 0], worth[0, 1] = 2, -2
    painted = paint(torch.zeros(1, 28, 28, dtype=torch.uint8), worth).double()
    for pixel, colour in ((painted[0, 0], FOR), (painted[0, 1], AGAINST)):
        assert pixel.tolist() == pytest.approx([value * 210 / 255 for value in colour], abs=1)
    assert painted[1:].max() == 0


def test_predict_draws_it(tested, tmp_path, cli, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lightning_logs").symlink_to(tested / "lightning_logs")
    (tmp_path / "in/deep").mkdir(parents=True)
    Image.fromarray(images[0, 0].numpy()).save("in/one.png")
    Image.fromarray(images[1, 0].numpy()).save("in/deep/two.png")
    Image.new("L", (28, 28)).save("in/empty.png")
    code, _, err = cli("predict", "--images", "in", "--explain", "why")
    assert (code, err) == (0, "")
    drawn = sorted(path.relative_to(tmp_path / "why").as_posix() for path in (tmp_path / "why").rglob("*.png"))
    assert drawn == ["deep/two.png", "one.png"]
    picture = np.asarray(Image.open("why/one.png"))
    assert picture.shape == (224, 456, 3)
    assert (picture[::8, :224:8, 0] == images[0, 0].numpy()).all()
    assert (picture[:, 232:] != picture[:, 232:, :1]).any()
    for words, reason in (
        (["--explain", "why"], "--explain needs --images"),
        (["--images", "in", "--explain", "why"], "this exists; give a new or an empty folder"),
        (["--images", "in", "--explain", "in/why"], "inside the folder of the pictures"),
    ):
        code, _, err = cli("predict", *words, "--output", "out.csv")
        assert (code, len(err.splitlines())) == (2, 1)
        assert reason in err


def test_the_square_grows_with_the_image():
    torch.manual_seed(0)
    linear = nn.Linear(3 * 56 * 84, 2)
    nn.init.zeros_(linear.weight)
    linear.weight.data[1].view(3, 56, 84)[:, 20:24, 30:36] = 0.01  # speaks for the second class
    model = TrainedModel(
        nn.Sequential(PixelNormalization(0.0, 1.0), nn.Flatten(), linear), ["a", "b"], None, (3, 56, 84)
    )
    image = torch.full((3, 56, 84), 255, dtype=torch.uint8)
    worth = occlude(model, image, 1)
    assert worth.shape == (56, 84)
    assert worth[20:24, 30:36].min() > 0.1 > 1e-5 > worth[:10, :20].abs().max()
    assert draw(model, image, 1, 0.5).shape == (4 * 56, 4 * (2 * 84 + 1), 3)
