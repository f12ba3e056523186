"""Two real processes on the CPU."""

import csv
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, spawn

TEMPERATURES = """
import sys
from fmnist import FashionMNIST, FashionMNISTDataModule, ImageClassifier
from fmnist.calibration import fit_temperature
model = ImageClassifier.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt").eval()
data = FashionMNISTDataModule(FashionMNIST(sys.argv[1]))
data.setup("validate")
print(model.temperature.item(), fit_temperature(model(data.val_set.images).detach(), data.val_set.labels))
"""
TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2")


@pytest.fixture
def trained(workplace, real_root):
    """A folder with a run that two processes have trained."""
    words = ("--data.source.root", real_root, "--model.hidden_dims=[32]", "--trainer.max_epochs=1")
    done = spawn("fit", "--config", ROOT / "configs" / "mlp.yaml", *words, *TWO, cwd=workplace)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fit on 2 x cpu" in done.stdout
    assert done.stdout.count("epoch 1/1") == 1
    return workplace


def test_two_processes_make_one_run_and_count_every_sample_once(trained, real_root):
    assert [path.name for path in (trained / "lightning_logs").iterdir()] == ["version_0"]
    run = trained / "lightning_logs" / "version_0"
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "430"  # 55,000 images in global batches of 128
    assert float(row["val/acc"]) > 0.8
    done = subprocess.run([sys.executable, "-c", TEMPERATURES, real_root], cwd=trained, capture_output=True, text=True)
    two, one = map(float, done.stdout.split())
    assert two == pytest.approx(one, rel=1e-5), "two processes fit the temperature that one fits"
    results = []
    for devices in ((), TWO):
        done = spawn("test", *devices, cwd=trained)
        assert (done.returncode, done.stderr) == (0, "")
        results.append(json.loads((run / "test" / "metrics.json").read_text()))
    one, two = results
    assert one["num_samples"] == two["num_samples"] == 10_000
    assert one["accuracy"] == two["accuracy"]
    for name in ("loss", "nll", "brier", "ece"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)
    assert one["confusion_matrix"] == two["confusion_matrix"]
    assert one["temperature"] != 1


def test_three_processes_predict_every_image_in_order(trained):
    three = ("--trainer.accelerator=cpu", "--trainer.devices=3")
    for name, devices in (("one.csv", ()), ("three.csv", three)):
        done = spawn("predict", "--output", name, *devices, cwd=trained)
        assert (done.returncode, done.stderr) == (0, "")
    one, three = ((trained / name).read_text().splitlines() for name in ("one.csv", "three.csv"))
    assert len(one) == len(three) == 10_001
    assert [line.split(",")[:2] for line in one] == [line.split(",")[:2] for line in three]


def test_batch_that_three_processes_cannot_share(workplace, real_root):
    words = ("--data.source.root", real_root, "--trainer.accelerator=cpu", "--trainer.devices=3")
    done = spawn("fit", *words, cwd=workplace)
    assert done.returncode == 2
    assert "give --data.batch_size 63" in done.stderr
    assert not (workplace / "lightning_logs").exists()
