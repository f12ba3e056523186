"""End to end on the real Fashion-MNIST, as a user runs it."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from fmnist import load
from fmnist.cli.prepare import count_duplicates
from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.data.split import digest_images
from fmnist.runs.folder import BUNDLED, BUNDLED_NOTE
from tests.conftest import ROOT, spawn

pytestmark = pytest.mark.network


def test_todays_release_has_no_duplicates(real_root):
    train, test = (VerifiedFashionMNIST(real_root, train=part).data for part in (True, False))
    assert count_duplicates(digest_images(train), digest_images(test)) == (0, 0, 0)


def test_default_normalization_is_that_of_the_training_images(real_root):
    pixels = VerifiedFashionMNIST(real_root).data.double() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)


def test_two_processes_that_prepare_at_once_leave_one_good_copy(real_root, tmp_path):
    system = str(real_root / "FashionMNIST" / "raw")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: spawn("prepare", cwd=tmp_path, FMNIST_DATA=system), range(2)))
    assert [done.returncode for done in both] == [0, 0]
    assert both[0].stdout == both[1].stdout
    files = [*(tmp_path / "data" / "FashionMNIST" / "raw").iterdir()]
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}
    assert digests == {name: md5 for name, (_, md5) in VerifiedFashionMNIST.files.items()}


def test_the_network_of_the_package_is_as_good_as_it_says(real_root):
    test = VerifiedFashionMNIST(real_root, train=False)
    answers = load(BUNDLED).predict(test.data.unsqueeze(1)).probabilities.argmax(1)
    assert f"({(answers == test.targets).double().mean():.2%} right)" in BUNDLED_NOTE


def test_pictures_are_classified_and_models_exported_before_any_training(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    picture = ROOT / "docs" / "boot.png"
    for words in (("predict", "--images", picture), ("export", "--output", "m.safetensors")):
        code, out, err = cli(*words)
        assert (code, err, str(BUNDLED) in out) == (0, f"note: {BUNDLED_NOTE}\n", True)
    assert Path("m.safetensors").read_bytes() == BUNDLED.read_bytes()
    assert load().classify(picture) == load("m.safetensors").classify(picture)
    code, out, err = cli("test")
    assert (code, out) == (2, "")
    assert "run 'fmnist fit --config configs/mlp.yaml' first" in err


def test_main_job_learns(real_root, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    words = ("--config", ROOT / "configs" / "mlp.yaml", "--data.source.root", real_root, "--trainer.max_epochs", 3)
    code, _, err = cli("fit", *words)
    assert (code, err) == (0, "")
    assert cli("test")[0] == 0
    metrics = json.loads(Path("lightning_logs/version_0/test/metrics.json").read_text())
    assert metrics["num_samples"] == 10_000
    assert metrics["acc"] > 0.86
    checkpoint = torch.load(metrics["checkpoint"], weights_only=True)
    assert checkpoint["hyper_parameters"]["class_names"][8] == "Bag"


@pytest.mark.parametrize(("config", "most"), [("mlp-best", 5_000_000), ("mlp-small", 100_000)])
def test_published_recipes_are_plain_mlps_that_learn(real_root, tmp_path, monkeypatch, cli, config, most):
    monkeypatch.chdir(tmp_path)
    little = ("--trainer.max_epochs", 2, "--data.batch_size", 128, "--trainer.limit_train_batches", 80)
    little += ("--trainer.callbacks.decay", 0.9)  # the averages of 120 epochs would have seen too little of so few
    words = ("--config", ROOT / "configs" / f"{config}.yaml", "--data.source.root", real_root, *little)
    code, _, err = cli("fit", *words)
    assert (code, err) == (0, "")
    assert cli("test")[0] == 0
    metrics = json.loads(Path("lightning_logs/version_0/test/metrics.json").read_text())
    assert metrics["acc"] > 0.75
    network = load(metrics["checkpoint"]).model.network
    assert sum(parameter.numel() for parameter in network.parameters()) <= most
    assert {type(module) for module in [*network][1:]} == {nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU}
