"""The scripts behind the README's figures, each in a process of its own on very little work."""

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


def test_audit_plants_and_finds(run, workplace):
    out = run("audit.py", "--images=300", "--epochs=1", "--picture=labels.png", "--model.hidden_dims=8")
    assert out.count("300 images, fold ") == 10
    planted, published = (line.split("|")[1:4] for line in out.splitlines()[-2:])
    assert [cell.strip() for cell in planted[:2]] == ["300", "6"]
    assert 0 <= float(planted[2].strip().rstrip("%")) <= 100
    assert [cell.strip() for cell in published] == ["300", "0", ""]
    assert (workplace / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_throughput_prints_every_row(run, workplace):
    words = ("--batch_sizes=4096", "--options_at=4096", "--repeats=1", "--batches=2", "--json=rows.json")
    out = run("throughput.py", *words)
    rows = json.loads((workplace / "rows.json").read_text())
    names = [row["row"] for row in rows]
    assert names[:5] == ["floor", "ours", "barebones", "tutorial", "plain Lightning"]
    rest = [name for name in names[5:] if "Keras" not in name]
    assert rest == ["scikit-learn", "ours", "flip and shift 2", "bf16 products", "bf16-mixed", "epoch's end"]
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
