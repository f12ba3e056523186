"""The scripts behind the README's figures, each in a process of its own on very little work."""

import csv
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, spawn

LITTLE = ("--seeds=1", "--model.hidden_dims=[8]", "--trainer.limit_train_batches=3")


@pytest.fixture
def run(workplace, real_root):
    def run(script, *words, code=0):
        (workplace / "data").exists() or (workplace / "data").symlink_to(real_root)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)]
        done = subprocess.run(command, cwd=workplace, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        assert code or not done.stderr
        return done.stdout + done.stderr

    return run


def test_seeds_prints_saves_and_continues(run, workplace):
    config = ROOT / "configs" / "mlp.yaml"
    words = (config, *LITTLE, "--trainer.max_epochs=1")
    out = run("seeds.py", *words)
    assert "test/acc: 0." in out
    assert "± 0.0000" in out
    saved = json.loads((workplace / "lightning_logs/seeds/mlp/results.json").read_text())
    assert saved["summary"]["test/acc"]["mean"] == saved["runs"][0]["test/acc"]
    again = run("seeds.py", *words)
    assert "epoch 1/1" not in again, "a finished seed is not trained again"
    assert again.splitlines()[-1] == out.splitlines()[-1]
    other = run("seeds.py", *words, "--model.dropout=0.1", code=1)
    assert "Give another --name" in other, "results of other options are not passed off as these"


def test_search_records_trials_once_and_goes_on_with_a_stopped_one(run, workplace):
    (workplace / "little").mkdir()
    settings = [
        "seed_everything: 0",
        "trainer: {max_epochs: 2, enable_progress_bar: false}",
        "model: {hidden_dims: [8]}",
    ]
    (workplace / "little/base.yaml").write_text("\n".join([*settings, "data: {val_size: 58000}"]))
    grid = workplace / "little/grid.yaml"
    grid.write_text("config: base.yaml\ntrials:\n  base:\n  mixup: --model.mixup 0.2\n")
    stopped = workplace / "lightning_logs/search/little/mixup"
    words = ("--config", "little/base.yaml", "--model.mixup=0.2", "--trainer.default_root_dir", stopped)
    assert spawn("fit", *words, "--trainer.max_epochs=1", cwd=workplace).returncode == 0
    out = run("search.py", grid)
    rows = read_table(workplace / "little/grid.csv")
    assert [(row["trial"], row["epochs"]) for row in rows] == [("base", "2"), ("mixup", "2")]
    assert 0.3 < float(rows[0]["val_acc"]) <= float(rows[0]["val_acc_best"]) < 0.9
    assert "--model.mixup 0.2" in out
    assert "epoch 1/2" not in (stopped / "output.txt").read_text()
    grid.write_text(grid.read_text() + "  bad: --model.mixup -1\n")
    done = run("search.py", grid, code=1)
    assert done.splitlines()[-1].startswith("search: trial bad ended with exit code 2: see ")
    assert read_table(workplace / "little/grid.csv") == rows, "finished trials are not run again"


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_quickstart_prints_the_published_table_beside_ours(run):
    out = run("quickstart.py", *LITTLE)
    rows = out.splitlines()[-5:]
    assert [row.split()[:2] for row in rows] == [
        ["1", "47.3%"],
        ["2", "54.1%"],
        ["3", "60.3%"],
        ["4", "63.7%"],
        ["5", "65.0%"],
    ]


def test_pictures_prints_speed_memory_and_agreement(run, workplace, real_root):
    assert spawn("fit", *LITTLE[1:], f"--data.source.root={real_root}", cwd=workplace).returncode == 0
    out = run("pictures.py", "--count=200", "--many=1500")
    assert "png        200 files, same class for 200, accuracy" in out
    assert "files/s after start" in out
    assert "MB for 1,000 files" in out
    assert "onnx    200 images, same class for 200" in out
    assert "latency of one image on one thread: torch" in out


def test_own_data_reads_twice(run):
    first, second = run("own_data.py", "--count=300").splitlines()
    assert first.startswith("300 PNG files the first time: ")
    assert second.startswith("300 PNG files from the cache: ")


def test_throughput_prints_every_row(run, workplace):
    words = ("--batch_sizes=4096", "--options_at=4096", "--repeats=1", "--batches=2", "--json=rows.json")
    out = run("throughput.py", *words)
    rows = json.loads((workplace / "rows.json").read_text())
    names = [row["row"] for row in rows]
    assert names[:5] == ["floor", "ours", "barebones", "tutorial", "plain Lightning"]
    assert names[-4:] == ["ours", "flip and shift 2", "bf16-mixed", "epoch's end"]
    assert rows[1]["ratio"]["floor"] == pytest.approx(rows[1]["seconds"] / rows[0]["seconds"])
    assert all(name in out for name in names[:-1])
    assert f"{rows[-1]['share']:.1%} of an epoch" in out


def test_time_to_accuracy_trains_rows_and_times_starts(run, workplace):
    rows = ("--rows", "ours", "PyTorch tutorial, usual", "scikit-learn, usual")
    out = run("time_to_accuracy.py", "--seeds=1", "--epochs=1", "--starts=1", "--json=times.json", *rows)
    found = json.loads((workplace / "times.json").read_text())
    assert [*found["runs"]] == list(rows[1:])
    for name, runs in found["runs"].items():
        assert 0.75 < runs["accuracy"][0] < 0.9, name
        assert 1 < runs["seconds"][0] < 200, name
        assert f"{name:32}     1{runs['seconds'][0]:10.1f}" in out
    assert found["start"]["--version"] < found["start"]["fit, up to the first step"]
    assert "peak memory of fit beyond the imports: " in out


def test_scale_compares_numbers_of_processes(run):
    out = run(
        "scale.py", "--processes", 1, 2, "--repeats=1", "--trainer.limit_train_batches=3", "--data.val_size=58000"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[0][4] == "1.00"
