"""``sweep``: what is tried, in what order, and what survives."""

import json
import os
import random
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fmnist.cli.sweep import _show
from fmnist.errors import UserError
from fmnist.runs.folder import newest_run
from fmnist.runs.tables import write_history
from fmnist.sweep.space import Range, read_plan
from fmnist.sweep.study import is_hopeless
from fmnist.sweep.sweep import suggest
from fmnist.sweep.trials import add_trial, open_sweep, read_trials
from tests.conftest import ROOT

LR = {"low": 0.02, "high": 0.5, "log": True}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the file of a sweep over ``configs/mlp.yaml`` and returns its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlp.yaml").write_text((ROOT / "configs" / "mlp.yaml").read_text())

    def write(name="tiny", **content):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"config": "mlp.yaml", **content}, sort_keys=False))
        return path

    return write


@pytest.mark.parametrize("name", ["mlp", "seeds", "seeds-60000", "folds"])
def test_the_files_that_come_along_can_be_read(name):
    plan = read_plan(ROOT / f"configs/sweeps/{name}.yaml")
    assert plan.space


def test_a_point_becomes_the_words_that_one_would_type(write):
    plan = read_plan(write(search={"model.hidden_dims": [[8, 8]], "data.flip": [True], "model.network": [None]}))
    (point,) = plan.grid()
    assert plan.words(point)[2:] == ["--model.hidden_dims=[8, 8]", "--data.flip=true", "--model.network=null"]
    plan = read_plan(write(**{"try": {"ema": "--trainer.callbacks+=EMAWeightAveraging --model.dropout 0.1"}}))
    assert plan.words(plan.named["ema"])[2:] == ["--trainer.callbacks+=EMAWeightAveraging", "--model.dropout", "0.1"]


def test_ranges_keep_to_their_bounds_and_steps():
    assert Range(1, 4).values() == [1, 2, 3, 4]
    assert Range(0.0, 0.3, step=0.1).values() == [0.0, 0.1, 0.2, 0.3]
    rng = random.Random(0)
    drawn = [Range(1, 1000, log=True).draw(rng) for _ in range(500)]
    assert all(isinstance(number, int) and 1 <= number <= 1000 for number in drawn)
    assert 150 < sum(number < 32 for number in drawn) < 350, "equal ratios are equally likely"
    assert {Range(0, 1, step=0.5).draw(rng) for _ in range(50)} == {0.0, 0.5, 1.0}


def test_a_sweep_goes_on_as_it_was_begun(write, tmp_path):
    folder = tmp_path / "lightning_logs" / "tiny"

    def begin(typed=(), **content):
        path = write(search={"model.dropout": [0.0, 0.1], "model.optimizer.lr": LR}, sampler="random", **content)
        open_sweep(folder, read_plan(path), typed, path)

    begin()
    begin(trials=50)
    for changed in ({"seed": 1}, {"threads": 2}, {"metric": "val/loss"}, {"typed": ["--data.flip=true"]}):
        with pytest.raises(UserError, match="when the sweep began"):
            begin(**changed)
    path = write(search={"model.dropout": [0.0, 0.1, 0.2], "model.optimizer.lr": LR}, sampler="random")
    open_sweep(folder, read_plan(path), (), path)
    for search in ({"model.dropout": [0.0], "model.optimizer.lr": LR}, {"model.dropout": [0.0, 0.1]}):
        path = write(search=search, sampler="random")
        with pytest.raises(UserError, match="not what it was when the sweep began"):
            open_sweep(folder, read_plan(path), (), path)
    (tmp_path / "mlp.yaml").write_text("seed_everything: 7\n")
    with pytest.raises(UserError, match=r"config.*mlp.yaml is not what it was"):
        begin()
    (tmp_path / "lightning_logs" / "other").mkdir()
    with pytest.raises(UserError, match="holds something else"):
        open_sweep(tmp_path / "lightning_logs" / "other", read_plan(path), (), path)


ASKER = """
import os, sys, time
from pathlib import Path
from fmnist.runs.folder import lock
from fmnist.runs.tables import write_history
from fmnist.sweep.space import read_plan
from fmnist.sweep.study import is_hopeless
from fmnist.sweep.sweep import suggest
from fmnist.sweep.trials import add_trial, read_trials
plan, folder = read_plan(Path(sys.argv[1])), Path(sys.argv[2])
while True:
    turn = lock(folder, wait=60)
    trials = read_trials(folder)
    new = suggest(plan, trials, len(trials))
    if new is None:
        break
    trial = add_trial(folder, len(trials), *new)
    os.close(turn)
    time.sleep(0.01)  # it is being trained
    lr, width = trial.point["model.optimizer.lr"], trial.point["model.hidden_dims"][0]
    trial.finish("complete", value=(lr - 0.1) ** 2 + 1 / width)
"""


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_thirty_points_are_the_same_again_and_never_twice(write, tmp_path, sampler):
    search = {"model.optimizer.lr": LR, "model.hidden_dims": [[64], [128], [256]]}
    path = write(sampler=sampler, trials=30, mode="min", metric="val/loss", search=search)

    def points(name, processes):
        folder = tmp_path / "lightning_logs" / name
        open_sweep(folder, read_plan(path), (), path)
        command = [sys.executable, "-c", ASKER, str(path), str(folder)]
        asking = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(processes)]
        assert [process.wait() for process in asking] == [0] * processes
        return [json.dumps(trial.point) for trial in read_trials(folder)]

    alone = points("alone", 1)
    assert points("again", 1) == alone
    assert len({*points("three", 3)}) == len({*alone}) == 30
    if sampler == "tpe":
        values = [trial.result()["value"] for trial in read_trials(tmp_path / "lightning_logs/alone")]
        assert statistics.mean(values[15:]) < statistics.mean(values[:15]), (
            "it learns from what the others have reached"
        )


def test_small_spaces_end_when_everything_has_been_tried(write, tmp_path):
    path = write(
        sampler="tpe", trials=30, search={"model.dropout": [0.0, 0.1, 0.2], "data.shift": {"low": 0, "high": 1}}
    )
    plan, folder = read_plan(path), tmp_path / "lightning_logs" / "tiny"
    open_sweep(folder, plan, (), path)
    for number in range(6):
        add_trial(folder, number, *suggest(plan, read_trials(folder), number))
    assert suggest(plan, read_trials(folder), 6) is None
    assert len({json.dumps(trial.point) for trial in read_trials(folder)}) == 6


def test_a_sweep_survives_what_kills_it(script, real_root):
    code, out = script("crash_sweep", "--points=2", "--kills=4", f"--root={real_root}")
    assert code == 0, out
    assert "all finished once, bit for bit" in out


def test_a_sweep_from_the_first_trial_to_the_last_word(write, tmp_path, cli):
    """Failures of a trial's own are results; those of the place end the sweep, and the trial stays open."""
    named = {"wild": "--model.optimizer.lr 1e30", "odd": {"model.dropout": 2}}
    path = write(search={"seed_everything": [0, 1]}, **{"try": named})
    words = ("--model.hidden_dims=[8]", "--trainer.max_epochs=1", "--data.batch_size=8", "--data.val_size=0.2")
    words += ("--data.source=ImageFolder", f"--data.source.folder={tmp_path / 'pictures'}")
    code, _, err = cli("sweep", path, "--test", *words)
    assert code == 2
    assert err.count("\n") == 1
    assert "pictures" in err
    assert not list(tmp_path.glob("lightning_logs/tiny/trial_*/result.json"))
    noise = np.random.default_rng(0)
    for number in range(48):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (28, 28), np.uint8)).save(folder / f"{number}.png")
    code, out, err = cli("sweep", path, "--test", *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("trial_000 (wild): the training loss is nan after epoch 1")
    assert lines[0].endswith("--model.optimizer.lr 1e30")
    assert lines[1].startswith("trial_001 (odd): model.dropout is 2")
    assert [line[:9] for line in lines[2:4]] == ["trial_002", "trial_003"]
    assert "mean of 2 seeds" in out

    rows = json.loads(cli("compare", "lightning_logs/tiny", "--format", "json")[1])
    assert {row["status"].partition(":")[0] for row in rows} == {"finished", "failed", "mean of 2 seeds"}
    both = [row for row in rows if row["status"] == "finished"]
    assert {row["run"] for row in both} == {"tiny/trial_002", "tiny/trial_003"}
    assert cli("validate", "--ckpt_path", both[0]["run"])[0] == 0, "compare prints what --ckpt_path takes"
    seeds = next(row for row in rows if row["status"] == "mean of 2 seeds")
    assert seeds["test/acc"] == pytest.approx(sum(row["test/acc"] for row in both) / 2)
    assert seeds["test/acc std"] == pytest.approx(abs(both[0]["test/acc"] - both[1]["test/acc"]) / 2**0.5)
    run = newest_run(tmp_path / "lightning_logs/tiny/trial_002")
    assert (run / "ended").exists()
    assert (run / "test" / "report.html").exists()


def test_a_hopeless_trial_is_seen_from_outside(write, tmp_path):
    path = write(sampler="random", metric="val/loss", mode="min", pruner="median", search={"model.dropout": [0.0, 0.1]})
    plan, folder = read_plan(path), tmp_path / "lightning_logs" / "tiny"
    open_sweep(folder, plan, (), path)

    def train(number, losses):
        trial = add_trial(folder, number, {"model.dropout": 0.0}, str(number))
        run = trial.path / "lightning_logs" / "version_0"
        run.mkdir(parents=True)
        write_history([{"epoch": epoch, "val/loss": loss} for epoch, loss in enumerate(losses, 1)], run)
        return trial

    for number in range(6):
        train(number, [1.0, 0.5, 0.4 + number / 100]).finish("complete", value=0.4 + number / 100)
    good, bad = train(6, [1.0, 0.4]), train(7, [1.0, 0.9])
    trials = read_trials(folder)
    assert not is_hopeless(plan, trials, good)
    assert is_hopeless(plan, trials, bad)
    assert bad.value(plan) == 0.9


def test_the_best_is_named_with_a_command_for_five_seeds(write, tmp_path, capsys):
    path = write(sampler="grid", metric="val/loss", mode="min", search={"model.dropout": [0.0, 0.1]})
    plan, folder = read_plan(path), tmp_path / "lightning_logs" / "tiny"
    open_sweep(folder, plan, (), path)
    for number, (dropout, loss) in enumerate([(0.0, 0.5), (0.1, 0.4)]):
        add_trial(folder, number, {"model.dropout": dropout}, str(number)).finish("complete", value=loss)
    _show(plan, folder, ["--trainer.max_epochs", "3"])
    best, command = capsys.readouterr().out.splitlines()[-2:]
    assert best.startswith(f"best: {folder / 'trial_001'}; ")
    words = shlex.split(command.partition(": ")[2])
    assert words[:4] == ["python", "-m", "fmnist", "sweep"]
    assert words[5:] == ["--test", "--model.dropout=0.1", "--trainer.max_epochs", "3"]
    assert read_plan(Path(words[4])).space == {"seed_everything": [0, 1, 2, 3, 4]}
