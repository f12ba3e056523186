"""Typicality: what it tells from clothes, that it belongs to the weights that are saved, and where it is not known."""

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from fmnist import FashionMNIST, FashionMNISTDataModule, ImageClassifier, load
from fmnist.model.typicality import ENOUGH, TypicalityFitter, forward_with_features, shrink
from tests.conftest import EMA, RECIPE, ROOT

RUN = Path("lightning_logs/version_0")


@pytest.fixture(scope="module")
def trained(tested):
    """A network whose weights are averaged, on the real images. Returns its run."""
    return tested / RUN


@pytest.fixture(scope="module")
def images(real_root):
    return FashionMNIST(real_root).load(train=False)[0]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 40, 40), (3, 32, 20)])
def test_it_is_fitted_in_float32_whatever_training_computes_in(shape):
    model = ImageClassifier(hidden_dims=[8], image_shape=shape)
    model.use_pixel_statistics(0.3, 0.3)
    images = torch.randint(0, 256, (300, *shape), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        model.validation_step((images, torch.zeros(300, dtype=torch.long)), 0)
    (logits, _), (small, features) = model.val_outputs.compute(), model.val_inputs.compute()
    state = model.typicality.fit(small, features, logits)
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_pictures_are_reduced_alike_whatever_the_type_of_new_tensors_is():
    images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    expected = shrink(images)
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does for bf16-true
    try:
        assert torch.equal(shrink(images), expected)
    finally:
        torch.set_default_dtype(torch.float32)


class StopAfterOne(Callback):
    """Ends a training after its first epoch, as a time limit does."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def test_other_pictures_are_told_from_clothes(trained, images):
    predictor = load(trained)
    clothes = predictor.predict(images).typicality
    assert 0.002 < (clothes < 0.01).float().mean() < 0.02, "about one in a hundred is called unlike"
    assert clothes.mean() == pytest.approx(0.5, abs=0.03)
    noise = torch.randint(0, 256, (500, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name, others, least in (
        ("noise", noise, 0.99),
        ("inverted", 255 - images[:500], 0.99),
        ("turned", torch.rot90(images[:500], 1, (2, 3)), 0.8),
    ):
        above = (clothes[:, None] > predictor.predict(others).typicality).float().mean()
        assert above > least, name


def test_it_is_fitted_to_the_weights_that_are_saved(trained, real_root):
    data = FashionMNISTDataModule(FashionMNIST(real_root))
    data.setup("validate")
    for name in ("best.ckpt", "last.ckpt"):
        path = trained / "checkpoints" / name
        saved = torch.load(path, weights_only=True)["typicality"]
        with torch.inference_mode():
            logits, features = forward_with_features(load(path).model.network, data.val_set.images)
        again = TypicalityFitter().fit(data.val_set.images, features, logits)
        assert saved.keys() == again.keys()
        for part in ("centre", "spread", "levels"):
            torch.testing.assert_close(saved[part], again[part], rtol=1e-2, atol=1e-2)
        share = (again["levels"] - saved["levels"]).abs().mean() / again["levels"].std()
        assert share < 0.01, "that of other weights would be elsewhere"


def test_a_continued_training_has_the_same(trained, real_root, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config", ROOT / "configs/mlp.yaml", "--data.source.root", real_root, *RECIPE]
    assert cli("fit", *words, "--trainer.callbacks+=tests.model.test_typicality.StopAfterOne")[0] == 0
    assert (
        cli("fit", "--ckpt_path", "last", "--config", RUN / "config.yaml", "--trainer.callbacks", "null", *EMA)[0] == 0
    )
    for name in ("best.ckpt", "last.ckpt"):
        states = [torch.load(run / "checkpoints" / name, weights_only=True)["typicality"] for run in (trained, RUN)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][part], states[1][part]) for part in states[0]), name


def test_predictions_have_it(trained, real_root, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(trained.parent.parent)
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    found = load(trained).classify(noise)
    assert (found.note, found.typicality) == ("unlike the training images", 0)
    assert str(found).endswith("(unlike the training images)")
    assert cli("predict", "--output", tmp_path / "test.csv")[0] == 0
    assert cli("predict", "--images", ROOT / "docs/boot.png", "--output", tmp_path / "photo.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "test.csv").read_text().splitlines()))
    assert {"typicality"} < rows[0].keys()
    assert sum(float(row["typicality"]) < 0.01 for row in rows) < 200
    (photo,) = csv.DictReader((tmp_path / "photo.csv").read_text().splitlines())
    assert 0 < float(photo["typicality"]) <= 1


def test_onnx_has_it_as_its_second_output(trained, images, tmp_path, cli):
    assert cli("export", "--ckpt_path", trained, "--output", tmp_path / "model.onnx")[0] == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["probabilities", "typicality"]
    probabilities, typicality = session.run(None, {"images": images[:500].numpy()})
    expected = load(trained).predict(images[:500])
    assert np.abs(probabilities - expected.probabilities.numpy()).max() < 1e-5
    assert np.abs(typicality - expected.typicality.numpy()).max() < 0.005


def test_threads_do_not_disturb_each_other(trained, images):
    predictor = load(trained)
    parts = images[:400].split(10)
    alone = [predictor.predict(part).typicality for part in parts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda part: predictor.predict(part).typicality, parts))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


class Flat(nn.Module):
    """A network without a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, num_classes, 28)

    def forward(self, images):
        return self.layer(images).flatten(1)


def test_where_it_is_not_known_the_note_says_so(real_root, images, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, one = ["--data.source.root", real_root], ["--trainer.max_epochs=1", "--trainer.limit_train_batches=5"]
    convnet = f"{Flat.__module__}.{Flat.__name__}"
    for number, words in enumerate(
        (["--data.val_size", ENOUGH - 1], ["--data.val_size", 0], [f"--model.network={convnet}"])
    ):
        assert cli("fit", *root, *one, *words)[0] == 0, words
        predictor = load(f"version_{number}", network=Flat if number == 2 else None)
        found = predictor.classify(images[0])
        assert (found.note, found.typicality) == ("typicality not known", None)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("levels", torch.zeros(3, 3)),
        ("spread", torch.zeros(4)),
        ("features_axes", torch.zeros(1).expand(64, 10**9)),
        ("pixels_gain", torch.full((784,), float("nan"))),
        ("pixels_gain", "text"),
        ("forward", torch.zeros(3)),
        ("centre", None),
    ],
)
def test_a_damaged_one_is_one_line(trained, tmp_path, cli, part, value):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run/checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["typicality"][part] = value
    if value is None:
        del checkpoint["typicality"][part]
    torch.save(checkpoint, path)
    code, _, err = cli("predict", "--ckpt_path", path, "--images", ROOT / "docs/boot.png")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is not a checkpoint of fmnist" in err


def test_large_images_are_reduced_by_areas():
    images = torch.randint(0, 256, (3, 3, 56, 84), dtype=torch.uint8)
    reduced = shrink(images)
    expected = images.float().mean(1, keepdim=True).view(3, 1, 28, 2, 28, 3).mean((3, 5)) / 255
    torch.testing.assert_close(reduced, expected)
    assert shrink(reduced) is reduced
    odd = shrink(torch.rand(2, 3, 45, 19))
    assert odd.shape == (2, 1, 28, 28)
    assert 0 < odd.min() < odd.max() < 1
