"""The scripts behind the README's figures, on the least work with which they print every row."""

import json
import logging
from functools import partial

import pytest

from fmnist import FashionMNIST
from tests.conftest import source

LITTLE = ("--model.hidden_dims=[8]", "--trainer.limit_train_batches=3")


@pytest.fixture
def run(script, tmp_path, monkeypatch):
    """Runs a script in an empty folder. Returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        code, out = script(name, *words)
        assert code == 0
        return out

    return run


def test_quickstart_prints_the_published_table_beside_ours(run, few, tmp_path):
    rows = [row.split() for row in run("quickstart", "--seeds=1", *source(few), *LITTLE).splitlines()[-5:]]
    assert [row[:2] for row in rows] == [["1", "47.3%"], ["2", "54.1%"], ["3", "60.3%"], ["4", "63.7%"], ["5", "65.0%"]]
    ours = json.loads((tmp_path / "lightning_logs/quickstart/seed_0/result.json").read_text())
    assert [(row[2], row[5]) for row in rows] == [(f"{epoch['acc']:.1%}", f"{epoch['loss']:.4f}") for epoch in ours]
    assert len({epoch["loss"] for epoch in ours}) == 5, "every epoch was tested"


def test_pictures_prints_speed_memory_and_agreement(run, real_root, tested):
    words = ("--count=50", "--many=1000", "--root", real_root)
    out = run("pictures", *words, "--ckpt_path", tested / "lightning_logs/version_0")
    assert "png         50 files, same class for 50, accuracy" in out
    assert "files/s after start" in out
    assert "MB for 1,000 files" in out
    assert "onnx    50 images, same class for 50" in out
    assert "latency of one image on one thread: torch" in out


def test_own_data_reads_twice(run, real_root):
    first, second = run("own_data", "--count=100", "--root", real_root).splitlines()
    assert first.startswith("100 PNG files the first time: ")
    assert second.startswith("100 PNG files from the cache: ")


def test_audit_plants_and_finds(run, small_data, tmp_path):
    FashionMNIST("data").prepare()
    out = run("audit", "--images=300", "--epochs=1", "--picture=labels.png", "--model.hidden_dims=[8]")
    assert out.count("300 images, fold ") == 10
    planted, published = ([cell.strip() for cell in line.split("|")[1:4]] for line in out.splitlines()[-2:])
    assert planted[:2] == ["300", "6"]
    assert float(planted[2].rstrip("%")) >= 100 / 6, "one of six at least"
    assert published == ["300", "0", ""]
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_throughput_prints_every_row(run, small_data, tmp_path):
    out = run("throughput", "--batch_sizes=64", "--options_at=64", "--repeats=1", "--batches=2", "--json=rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    names = [row["row"] for row in rows]
    assert names[:5] == ["floor", "ours", "barebones", "tutorial", "plain Lightning"]
    rest = [name for name in names[5:] if "Keras" not in name]
    assert rest == ["scikit-learn", "ours", "flip and shift 2", "bf16-mixed", "main job"]
    assert rows[1]["ratio"]["floor"] == pytest.approx(rows[1]["seconds"] / rows[0]["seconds"])
    assert all(name in out for name in names[:-1])
    job = rows[-1]
    assert job["ratio"] == pytest.approx(job["fit"] / job["bare"])
    assert f"fit / bare loop: {job['ratio']:.2f}" in out
    assert f"{job['share']:.1%} of an epoch of fit" in out


def test_time_to_accuracy_trains_rows(run, real_root, tmp_path):
    little, rows = ("--epochs=1", "--images=5000", "--root", real_root), ("ours", "scikit-learn, usual")
    out = run("time_to_accuracy", "--seeds=1", "--json=times.json", *little, "--rows", *rows)
    found = json.loads((tmp_path / "times.json").read_text())
    assert [*found] == [*rows]
    for name, runs in found.items():
        assert 0.4 < runs["accuracy"][0] < 0.9, name
        assert f"{name:32}     1{runs['seconds'][0]:10.1f}" in out


@pytest.mark.parametrize("peer", ["torch", "lightning"])
@pytest.mark.parametrize("recipe", ["usual", "plain"])
def test_a_peer_is_trained_and_saved(peer, recipe, run, real_root, request):
    logger = logging.getLogger("lightning.pytorch")
    request.addfinalizer(partial(logger.setLevel, logger.level))  # the script silences it
    saved, accuracy = run("time_to_accuracy", "--images=5000", "--root", real_root, "--run", peer, recipe, 1, 0).split()
    assert saved == "saved"
    assert 0.4 < float(accuracy) < 0.9


LIGHTNING = {"lightning", "lightning_fabric", "torchmetrics"}
LATE = {"jinja2", "fastapi", "uvicorn", "optuna"}  # what training does not need; torchmetrics imports matplotlib


def test_start_shows_what_each_command_imports(run, real_root, tested, tmp_path):
    words = ("--root", real_root, "--ckpt_path", tested / "lightning_logs/version_0", "--json=start.json")
    out = run("start", "--repeats=1", *words, "--rows", "fit", "serve", "compare", "sweep --help")
    found = json.loads((tmp_path / "start.json").read_text())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[2:6]]
    assert [row[0] for row in rows] == [*found] == ["fit", "serve", "compare", "sweep --help"]
    assert all(float(row[2]) == pytest.approx(sum(map(float, row[3:])), abs=0.03) for row in rows)
    packages = {name: {module.partition(".")[0] for module in row["modules"]} for name, row in found.items()}
    assert {"torch", "lightning"} < packages["fit"]
    assert not packages["fit"] & LATE
    late = ("fmnist.sweep", "fmnist.inference.server", "fmnist.evaluation.report")
    assert not [module for module in found["fit"]["modules"] if module.startswith(late)]
    assert not packages["serve"] & (LIGHTNING | {"torchvision", "matplotlib", "jsonargparse"})
    for name in ("compare", "sweep --help"):
        assert not packages[name] & (LIGHTNING | LATE | {"torch", "torchvision", "matplotlib"})


def test_scale_compares_numbers_of_processes(run, few):
    out = run("scale", "--processes", 1, 2, "--repeats=1", *source(few), "--data.val_size=500", *LITTLE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[0][4] == "1.00"
