"""A run and its checkpoints, made by version 0.1.0: they are read, tested and continued."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from fmnist import load
from tests.conftest import ROOT

RUN = Path("lightning_logs/version_0")
BEFORE = json.loads((ROOT / "tests/old/version_0/test/metrics.json").read_text())


@pytest.fixture
def old(workplace):
    """The old run in the current folder, on the data that it was trained on."""
    shutil.copytree(ROOT / "tests/old/version_0", workplace / RUN)
    return workplace / RUN


def test_its_test_says_the_same(old, cli):
    code, out, err = cli("test")
    assert (code, err) == (0, "")
    after = json.loads((old / "test/metrics.json").read_text())
    assert (BEFORE["schema"], after["schema"]) == (1, 2)
    assert (after["acc"], after["top2_acc"]) == (BEFORE["accuracy"], BEFORE["top2_accuracy"])
    assert after["acc_interval"] == BEFORE["accuracy_interval"]
    for name in ("loss", "nll", "brier", "ece", "ece_uncalibrated"):
        assert after[name] == pytest.approx(BEFORE[name], rel=1e-4), name
    assert after["digests"] == BEFORE["digests"]
    assert f"acc {100 * BEFORE['accuracy']:.2f} %" in out


def test_its_results_are_read_by_compare_and_export(old, cli, tmp_path):
    (row,) = json.loads(cli("compare", "--format", "json")[1])
    assert (row["test/acc"], row["status"]) == (BEFORE["accuracy"], "finished")
    assert cli("export", "--output", tmp_path / "old.onnx")[0] == 0
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "old.onnx").metadata_props}
    assert json.loads(found["metrics"])["acc"] == BEFORE["accuracy"]


def test_it_is_continued(old, cli):
    code, out, err = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert (code, err) == (0, "")
    assert "planned for 2 epochs and is now for 4" in out
    assert len((old / "metrics.csv").read_text().splitlines()) == 5
    momentum = torch.load(old / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert all(state["momentum_buffer"].abs().sum() > 0 for state in momentum.values())


def test_settings_that_are_retired_are_left_out(old, cli):
    path = old / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["data"]["cutout"] = 8
    for place in (path, Path("old.yaml")):
        place.write_text(yaml.dump(settings))
    for words in (
        ["test"],
        ["fit", "--ckpt_path", "last", "--trainer.max_epochs", 3],
        ["prepare", "--config", "old.yaml"],
    ):
        code, _, err = cli(*words)
        assert (code, err) == (0, "")
    assert "cutout" not in path.read_text()
    settings["trainer"]["max_epochs"] = 1
    Path("again.yaml").write_text(yaml.dump(settings))
    code, _, err = cli("fit", "--config", "again.yaml")
    assert (code, err) == (0, "")


def test_it_is_loaded(old):
    (prediction,) = load(old / "checkpoints/best.ckpt").classify(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
