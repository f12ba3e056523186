import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from fmnist.cli.compare import format_text, list_runs
from fmnist.runs.folder import lock
from tests.conftest import ROOT


def make(folder, epochs, planned=2, test=None, **settings):
    folder.mkdir(parents=True)
    config = {"seed_everything": 1, "trainer": {"max_epochs": planned}, "model": {"dropout": 0.0, **settings}}
    (folder / "config.yaml").write_text(yaml.dump(config))
    rows = [f"{epoch + 1},{score},0.5" for epoch, score in enumerate(epochs)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val/acc,val/loss", *rows]) + "\n")
    times = [f"{epoch + 1},2.0" for epoch in range(len(epochs))]
    (folder / "times.csv").write_text("\n".join(["epoch,seconds", *times]) + "\n")
    if test:
        for name in ("test", "checkpoints"):
            (folder / name).mkdir()
        (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
        digests = {"checkpoint": hashlib.sha256(b"weights").hexdigest()}
        metrics = {"acc": test, "ece": 0.01, "num_samples": 200, "digests": digests}
        (folder / "test" / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # processes of the test runner have the width of its terminal
    logs = tmp_path / "lightning_logs"
    make(logs / "version_0", [0.8, 0.9, 0.85], planned=3, test=0.88)
    make(logs / "version_1", [0.95], planned=3, dropout=0.5)
    (logs / "version_2").mkdir()
    make(logs / "version_3", [], planned=3)
    (logs / "version_3" / "config.yaml").write_text("model: [")
    return logs


def test_the_best_run_comes_first(logs):
    rows = list_runs(logs)
    assert [row["run"] for row in rows] == ["version_1", "version_0", "version_2", "version_3"]
    best, finished, *broken = rows
    assert (best["status"], best["epochs"], best["val/acc"], best["test/acc"]) == (
        "1 of 3 epochs",
        1,
        0.95,
        None,
    )
    assert (finished["status"], finished["val/acc"], finished["test/acc"]) == ("finished", 0.9, 0.88)
    assert finished["seconds"] == 6
    assert all(row["status"].startswith("broken: ") for row in broken)


def test_only_settings_that_differ_are_shown(logs):
    row = list_runs(logs)[0]
    assert row["model.dropout"] == 0.5
    assert "seed_everything" not in row
    assert "trainer.max_epochs" not in row


def test_figures_of_other_weights_are_left_out(logs):
    (logs / "version_0" / "checkpoints" / "best.ckpt").write_bytes(b"trained on")
    row = next(row for row in list_runs(logs) if row["run"] == "version_0")
    assert (row["val/acc"], row["test/acc"], row["test/ece"]) == (0.9, None, None)


def test_a_run_that_is_being_trained_is_shown_as_such(logs):
    handle = lock(logs / "version_1")
    assert list_runs(logs)[0]["status"] == "1 of 3 epochs, running"
    os.close(handle)
    assert list_runs(logs)[0]["status"] == "1 of 3 epochs"


def test_what_is_not_a_number_is_never_the_best(logs, cli):
    make(logs / "version_4", [float("nan"), 0.1])
    assert list_runs(logs)[-3]["run"] == "version_4"
    assert "nan" not in cli("compare", logs, "--format", "csv")[1]


def test_runs_in_deeper_folders_are_found(logs):
    make(logs / "seeds" / "seed_1" / "lightning_logs" / "version_0", [0.99, 0.99])
    assert list_runs(logs)[0]["run"] == "seeds/seed_1/lightning_logs/version_0"


def test_both_formats_have_the_same_cells(logs, cli):
    code, out, err = cli("compare")
    assert (code, err) == (0, "")
    head, first, *_ = out.splitlines()
    assert head.split()[:5] == ["run", "status", "epochs", "val/acc", "test/acc"]
    assert first.startswith("version_1")
    table = list(csv.DictReader(io.StringIO(cli("compare", logs, "--format", "csv")[1])))
    assert [row["run"] for row in table] == [line.split()[0] for line in out.splitlines()[1:]]
    assert (table[0]["val/acc"], table[0]["test/acc"]) == ("0.95", "")
    assert [*table[0]] == head.split()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", "epoch,val/acc\n1,many\n"),
        ("metrics.csv", "epoch,val/acc\n1,0.5,0.6,0.7\n"),
        ("metrics.csv", b"\xff\xfe\x00"),
        ("config.yaml", "- 1"),
        ("config.yaml", ""),
        ("test/metrics.json", "{"),
        ("test/metrics.json", "[1]"),
        ("times.csv", "epoch,seconds\n1,soon\n"),
        ("times.csv", "1,2.0\n"),
    ],
)
def test_a_broken_run_is_listed_as_such(logs, cli, name, content):
    (logs / "version_0" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = cli("compare")
    assert (code, err) == (0, "")
    assert "broken: " in next(line for line in out.splitlines() if line.startswith("version_0"))


def test_does_not_import_torch(logs):
    code = "import sys; from fmnist.__main__ import main; main(['compare']); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=logs.parent, env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_settings_are_named_as_options_and_a_table_fits_the_terminal(logs, cli, monkeypatch):
    for number, (lr, name) in enumerate([(0.1, "torch.optim.SGD"), (0.01, "torch.optim.Adam")]):
        config = logs / f"version_{number}" / "config.yaml"
        settings = yaml.safe_load(config.read_text())
        settings["model"]["optimizer"] = {"class_path": name, "init_args": {"lr": lr}}
        config.write_text(yaml.dump(settings))
    out = cli("compare", logs)[1]
    assert out.splitlines()[0].split()[5:8] == ["model.dropout", "model.optimizer", "model.optimizer.lr"]
    assert " 90.00%    88.00%  0 " in out, "shares in percent, numbers to the right"
    table = {row["run"]: row for row in csv.DictReader(io.StringIO(cli("compare", logs, "--format", "csv")[1]))}
    run = table["version_1"]
    assert (run["model.optimizer"], run["model.optimizer.lr"]) == ("torch.optim.Adam", "0.01")
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("compare", logs)[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert "columns hidden; --format csv shows all)" in lines[-1]


def test_a_run_of_a_notebook_is_not_broken(logs):
    (logs / "version_0" / "config.yaml").unlink()
    row = next(row for row in list_runs(logs) if row["run"] == "version_0")
    assert (row["status"], row["val/acc"]) == ("3 of ? epochs", 0.9)


def test_trials_of_strangers_are_named_not_trusted(logs):
    for number, content in enumerate(
        ["[1]", "{", "[" * 100_000, '{"status": "pruned"}', '{"status": 3, "reason": "\\u001b[2J"}']
    ):
        trial = logs / f"trial_{number}"
        trial.mkdir()
        (trial / "result.json").write_text(content)
    status = {row["run"]: row["status"] for row in list_runs(logs) if row["run"].startswith("trial_")}
    assert [status[f"trial_{number}"] for number in range(4)] == ["broken: result.json"] * 3 + ["pruned"]
    assert "\x1b" not in format_text(list_runs(logs))


def test_columns_are_straight_with_names_of_any_script(logs, cli):
    for number, name in enumerate(["基线 模型", "e\u0301te\u0301", "plain"]):
        (logs / f"version_{number}" / "name").write_text(name, encoding="utf-8")
    lines = cli("compare")[1].splitlines()
    starts = [re.search("status|finished|1 of 3|broken", line).start() for line in lines]
    wide = [sum(letter in "基线模型" for letter in line) for line in lines]
    assert sorted(wide) == [0, 0, 0, 0, 4]
    assert len({start + more for start, more in zip(starts, wide, strict=True)}) == 1


def test_a_folder_is_named_as_everywhere(logs, cli, monkeypatch):
    make(logs / "search" / "version_0", [0.5])
    monkeypatch.setenv("HOME", str(logs.parent))
    for words in (["search"], ["lightning_logs/search"], ["~/lightning_logs/search"]):
        code, out, _ = cli("compare", *words)
        assert (code, out.count("\n")) == (0, 2), words
    everything = cli("compare")[1]
    monkeypatch.chdir(logs)
    for option in ("--trainer.default_root_dir", "--default_root_dir"):
        assert cli("compare", option, "..")[1].count("\n") == everything.count("\n")
