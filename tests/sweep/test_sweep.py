"""``sweep``: which points are trained, in what order, and what survives."""

import csv
import io
import json
import shlex
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fmnist.__main__ import main
from fmnist.cli.command import parse_fit
from fmnist.cli.sweep import _print_best
from fmnist.errors import UserError
from fmnist.runs.folder import newest_run
from fmnist.runs.tables import write_history
from fmnist.sweep.plan import as_arguments, read_plan
from fmnist.sweep.run import Sweep, next_point
from fmnist.sweep.trials import Trial, add_trial, open_sweep, read_trials
from tests.conftest import ROOT, source, spawn, start

LR = {"low": 0.02, "high": 0.5, "log": True}
NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, num_classes: int, width: int = 2):
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, num_classes))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the file of a sweep over ``configs/mlp.yaml`` and returns its path."""
    monkeypatch.chdir(tmp_path)
    config = (ROOT / "configs" / "mlp.yaml").read_text()
    (tmp_path / "mlp.yaml").write_text(config.replace("bf16-mixed", "32-true"))  # without a note on any processor

    def write(name="tiny", **content):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"config": "mlp.yaml", **content}, sort_keys=False))
        return path

    return write


def begin(path, options=()):
    """Opens the folder of a sweep. Returns its plan and its folder."""
    plan, folder = read_plan(path), path.parent / "lightning_logs" / path.stem
    open_sweep(folder, plan.record(options))
    return plan, folder


def add(plan, folder):
    """Adds the next trial and returns it; None if there is none."""
    trials = read_trials(folder, plan)
    number = trials[-1].number + 1 if trials else 0
    new = next_point(plan, trials, number)
    return new and add_trial(folder, number, *new)


SHIPPED = sorted([*ROOT.glob("configs/sweeps/*.yaml"), *ROOT.glob("benchmarks/record/*/search-*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_files_that_come_along_can_be_read(path):
    plan = read_plan(path)
    assert plan.search or plan.named


def test_a_configuration_is_beside_the_file_or_in_the_package(write, tmp_path, monkeypatch):
    beside, search = tmp_path / "mlp.yaml", {"data.shift": [0]}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_plan(write(search=search)).config == [str(beside)]
    assert read_plan(write(config="~/mlp.yaml", search=search)).config == [str(beside)]
    assert read_plan(write(config="mlp-small.yaml", search=search)).config == [str(ROOT / "configs/mlp-small.yaml")]


def test_the_table_of_results_is_one_sweep():
    points = [*read_plan(ROOT / "configs/sweeps/seeds.yaml").grid()]
    assert len(points) == 20
    assert points[7] == {"config": str(ROOT / "configs/mlp-small.yaml"), "seed_everything": 2}


def test_a_point_becomes_arguments(write):
    plan = read_plan(write(search={"model.hidden_dims": [[8, 8]], "data.flip": [True], "model.network": [None]}))
    (point,) = plan.grid()
    assert as_arguments(point)[1:] == ["--model.hidden_dims=[8, 8]", "--data.flip=true", "--model.network=null"]
    point = {"trainer.callbacks+": "EMAWeightAveraging", "trainer.callbacks.decay": 0.9}
    points = read_plan(write(**{"try": {"ema": point, "plain": None}})).named
    assert as_arguments(points["ema"])[1:] == [
        "--trainer.callbacks+=EMAWeightAveraging",
        "--trainer.callbacks.decay=0.9",
    ]
    assert points["plain"].keys() == {"config"}
    settings = {"data.source.folder": "a", "model.network.width": 4, "model.network": "small.Net"}
    points = read_plan(write(**{"try": {"own": {**settings, "data.source": "ImageFolder"}}})).named
    assert as_arguments(points["own"])[1:] == [
        "--model.network=small.Net",
        "--data.source=ImageFolder",
        "--data.source.folder=a",
        "--model.network.width=4",
    ]


@pytest.mark.parametrize("lr", ["before", "after"])
def test_a_class_keeps_its_settings_in_any_order(write, lr):
    search = {"model.optimizer": ["Adam"], "model.optimizer.lr": [0.5, 0.25]}
    plan = read_plan(write(search=dict([*search.items()][:: -1 if lr == "before" else 1])))
    parsed = parse_fit([as_arguments(point) for point in plan.grid()])
    optimizers = [settings.model.optimizer for settings in parsed]
    assert [(one.class_path, one.init_args.lr) for one in optimizers] == [
        ("torch.optim.Adam", 0.5),
        ("torch.optim.Adam", 0.25),
    ]
    assert "momentum" not in optimizers[0].init_args, "SGD of the configuration has left nothing"
    (point,) = read_plan(write(search={"model.optimizer.lr": [0.5]})).grid()
    (settings,) = parse_fit([[*as_arguments(point), "--model.optimizer", "Adam"]])
    assert (settings.model.optimizer.class_path, settings.model.optimizer.init_args.lr) == ("torch.optim.Adam", 0.5)


def test_ranges_keep_to_their_bounds_and_steps(write):
    search = {
        "data.batch_size": {"low": 1, "high": 1000, "log": True},
        "model.dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
        "model.optimizer.lr": {**LR, "low": 0.0234567},
    }
    plan = read_plan(write(sampler="random", trials=500, search=search))
    points = [next_point(plan, [], number)[1] for number in range(200)]
    sizes = [point["data.batch_size"] for point in points]
    assert all(isinstance(size, int) and 1 <= size <= 1000 for size in sizes)
    assert 60 < sum(size < 32 for size in sizes) < 140, "equal ratios are equally likely"
    assert {point["model.dropout"] for point in points} == {0.0, 0.1, 0.2, 0.3}
    assert all(0.0234567 <= point["model.optimizer.lr"] <= 0.5 for point in points)
    assert all(len(repr(point["model.optimizer.lr"])) <= 7 for point in points), "four digits can be read"
    assert all(plan.contains(None, point) for point in points)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"search": {"model.dropout": {"low": 0.3, "high": 0.1}}}, "search.model.dropout: `low <= high` must hold"),
        ({"search": {"model.dropout": {"low": 0.0, "high": 1.0, "log": True}}}, "`low > 0` must hold"),
        ({"search": {"model.dropout": {"low": 0.0, "high": "1"}}}, "give the numbers low and high"),
        ({"search": {"model.dropout": {"low": 0.0, "hihg": 1.0}}}, "give the numbers low and high"),
        ({"search": {"model.dropout": {"low": 0.0, "high": float("inf")}}}, "is not the file of a sweep"),
        ({"search": {"model.dropout": []}}, "give a list, or low and high"),
        ({"search": {"model.dropout": [0.1, 0.1]}}, "it has a value twice"),
        ({"search": {"model.dropout": 0.1}}, "give a list, or low and high"),
        ({"search": {"model.optimizer.lr": LR}}, "search.model.optimizer.lr is a range: a grid needs a list"),
        ({"search": {"ckpt_path": ["best"]}}, "ckpt_path cannot be searched: the sweep sets it itself"),
        ({"try": {"odd": {"name": "odd"}}}, "name cannot be searched"),
        ({"try": {"odd": "--data.shift 0"}}, "try.odd is --data.shift 0: give options and values"),
        ({"sampler": "tpe", "try": {"odd": {}}}, "sampler tpe needs search"),
        ({}, "there is nothing to try"),
        ({"sampler": "bayes", "search": {"data.shift": [0]}}, "sampler is bayes: choose from grid, random, tpe"),
        ({"threads": 0, "search": {"data.shift": [0]}}, "threads is 0: it must be a whole number >= 1"),
        ({"epoch": 5, "search": {"data.shift": [0]}}, "epoch is 5: choose from best, last"),
        ({"metric": ["val/acc"], "search": {"data.shift": [0]}}, "metric must be a column"),
        ({"trails": 3}, "trails: a sweep has config, search, try"),
        ({"config": "nothing.yaml"}, "there is no configuration"),
        ({"config": 3}, "config must be the path of a configuration"),
        ({"search": {"model.dropuot": [0.1]}}, "there is no option '--model.dropuot': did you mean '--model.dropout'?"),
        ({"search": {"model.dropout": ["much"]}}, "model.dropout"),
        ({"metric": "val/auc", "search": {"data.shift": [0]}}, "metric: no run has val/auc"),
        ({"metric": "val/loss", "sampler": "tpe", "search": {"data.val_size": [0]}}, "without validation images"),
    ],
)
def test_mistakes_are_refused_before_the_first_trial(write, tmp_path, capsys, content, message):
    assert main(["sweep", str(write(**content))]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "lightning_logs").exists()


def test_options_that_the_sweep_sets_are_refused(write, cli):
    code, _, err = cli("sweep", write(search={"data.shift": [0]}), "--name=mine")
    assert (code, err) == (2, "fmnist: error: --name: the sweep sets this itself\n")


def test_a_sweep_goes_on_as_it_was_begun(write, tmp_path):
    search = {"model.dropout": [0.0, 0.1], "model.optimizer.lr": LR}
    plan, folder = begin(write(search=search, sampler="random"))
    begin(write(search=search, sampler="random", trials=50))
    for changed in ({"seed": 1}, {"threads": 2}, {"metric": "val/loss"}, {"epoch": "last"}):
        with pytest.raises(UserError, match="when the sweep began"):
            begin(write(search=search, sampler="random", **changed))
    with pytest.raises(UserError, match=r"options was \[\] when the sweep began"):
        begin(write(search=search, sampler="random"), ["--data.flip=true"])
    while add(plan, folder).point["model.dropout"] == 0.0:
        pass
    for grown in ({"model.dropout": [0.2, 0.1, 0.0]}, {"model.optimizer.lr": {**LR, "high": 0.6}}):
        plan, _ = begin(write(search={**search, **grown}, sampler="random"))
        assert read_trials(folder, plan)
    for shrunk in ({"model.dropout": [0.0]}, {"model.optimizer.lr": {**LR, "low": 0.49}}, {"data.shift": [0]}):
        plan, _ = begin(write(search={**search, **shrunk}, sampler="random"))
        with pytest.raises(UserError, match="has options that the file of the sweep does not list"):
            read_trials(folder, plan)
    (tmp_path / "mlp.yaml").write_text("seed_everything: 7\n")
    with pytest.raises(UserError, match=r"configuration .*mlp.yaml was .* when the sweep began"):
        begin(write(search=search, sampler="random"))
    (tmp_path / "lightning_logs/other/version_0").mkdir(parents=True)
    with pytest.raises(UserError, match="holds something else"):
        begin(write("other", search=search, sampler="random"))


@pytest.mark.parametrize(
    ("name", "point"),
    [
        (None, {"model.network": "evil.Net"}),
        (None, {"config": "mlp.yaml", "data.shift": 7}),
        (None, {"config": "mlp.yaml", "data.shift": "0"}),
        (None, {"config": "mlp.yaml", "data.shift": 10**400}),
        (None, {"config": "evil.yaml", "data.shift": 0}),
        (None, {"config": "mlp.yaml", "data.shift": 0, "model.network": "evil.Net"}),
        ("plain", {"config": "mlp.yaml", "model.network": "evil.Net"}),
        ("other", {"config": "mlp.yaml"}),
    ],
)
def test_a_trial_that_is_not_in_the_plan_is_refused_before_anything_of_it_runs(write, name, point):
    write(search={"data.shift": {"low": 0, "high": 2}}, sampler="random", **{"try": {"plain": {}}})
    plan, folder = begin(Path("tiny.yaml"))
    trial = add_trial(folder, 1, name, point)
    with pytest.raises(UserError, match=f"{trial.path} has options that the file of the sweep does not list: remove"):
        Sweep(plan, folder, [], False, print).run()
    assert [path.name for path in folder.glob("trial_*")] == ["trial_001"]
    assert not (trial.path / "log.txt").exists()


def test_what_lies_in_the_plan_is_not_refused(write):
    write(search={"data.shift": {"low": 0, "high": 2}}, sampler="random", **{"try": {"plain": {}}})
    plan, folder = begin(Path("tiny.yaml"))
    add_trial(folder, 1, None, {"config": "mlp.yaml", "data.shift": 2})
    add_trial(folder, 2, "plain", {"config": "mlp.yaml"})
    assert [trial.number for trial in read_trials(folder, plan)] == [1, 2]


def test_the_command_refuses_a_trial_in_one_line(write, tmp_path, cli):
    write(search={"data.shift": [0]})
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    _, folder = begin(Path("tiny.yaml"))
    add_trial(folder, 0, None, {"config": "mlp.yaml", "model.network": "evil.Net"})
    code, out, err = cli("sweep", "tiny.yaml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{folder}/trial_000 has options that" in err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["sweep.json", "trial_000/trial.json", "trial_000/result.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"[" * 100_000,
        b"{",
        b"\xff",
        b'"complete"',
        b'{"name": [], "point": []}',
        b'{"name": {}, "point": {}}',
        b'{"status": [1]}',
        b'{"status": "complete", "value": "1"}',
        b'{"status": "complete", "value": NaN}',
        b'{"status": "complete", "value": 1e999}',
    ],
    ids=lambda content: content[:40].decode(errors="replace"),
)
def test_records_of_odd_form_are_one_line(write, name, content):
    plan, folder = begin(write(**{"try": {"plain": {}}}))
    add(plan, folder).finish("complete", value=0.5)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: move|when the sweep began"):
        Sweep(plan, folder, [], False, print).run()


def test_a_damaged_history_is_one_line(write):
    plan, folder = begin(write(search={"data.shift": [0]}))
    run = add(plan, folder).path / "lightning_logs/version_0"
    run.mkdir(parents=True)
    (run / "ended").touch()
    (run / "metrics.csv").write_text("epoch,val/acc\n1,0.5,7\n")
    with pytest.raises(UserError, match="is damaged: move"):
        read_trials(folder, plan)[0].value(plan)


@pytest.mark.parametrize(("given", "value"), [({}, 0.2), ({"epoch": "last"}, 0.4), ({"mode": "max"}, 0.5)])
def test_the_value_of_a_trial_is_that_of_its_best_or_its_last_epoch(write, tmp_path, given, value):
    plan = read_plan(write(metric="val/loss", search={"data.shift": [0]}, **given))
    run = tmp_path / "trial_000/lightning_logs/version_0"
    run.mkdir(parents=True)
    losses = [0.5, 0.2, 0.4, float("nan"), float("inf")]
    write_history([{"epoch": epoch, "val/loss": loss} for epoch, loss in enumerate(losses, 1)], run)
    assert Trial(tmp_path / "trial_000", None, {}).value(plan) == value


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_thirty_points_are_the_same_again_and_never_twice(write, sampler):
    search = {"model.optimizer.lr": LR, "model.hidden_dims": [[64], [128], [256]]}

    def trials(name, at_once):
        """Finishes each trial when as many others have been begun after it."""
        plan, folder = begin(write(name, sampler=sampler, trials=30, mode="min", metric="val/loss", search=search))
        running = []
        while (trial := add(plan, folder)) or running:
            running += [trial] if trial else []
            if trial is None or len(running) == at_once:
                done = running.pop(0)
                lr, width = done.point["model.optimizer.lr"], done.point["model.hidden_dims"][0]
                done.finish("complete", value=(lr - 0.1) ** 2 + 1 / width)
        return read_trials(folder, plan)

    sequential = trials("sequential", 1)
    assert [trial.point for trial in trials("again", 1)] == [trial.point for trial in sequential]
    for found in (sequential, trials("three", 3)):
        assert len({json.dumps(trial.point) for trial in found}) == len(found) == 30
    if sampler == "tpe":
        values = [trial.result()["value"] for trial in sequential]
        assert statistics.mean(values[15:]) < statistics.mean(values[:15]), "it learns from the results"


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_small_spaces_end_when_every_point_has_been_trained(write, sampler):
    search = {"model.dropout": [0.0, 0.1, 0.2], "data.shift": {"low": 0, "high": 1}}
    plan, folder = begin(write(sampler=sampler, trials=30, search=search))
    while add(plan, folder):
        pass
    assert len({json.dumps(trial.point) for trial in read_trials(folder, plan)}) == 6
    assert len(read_trials(folder, plan)) == 6


def test_a_sweep_survives_what_kills_it(script, few):
    little = ("--data.val_size=500", "--trainer.limit_train_batches=5")
    code, out = script("crash_sweep", "--points=2", "--kills=4", *source(few), *little)
    assert code == 0, out
    assert "all finished once, bit for bit" in out


def test_a_sweep_from_the_first_trial_to_the_last_word(write, tmp_path, cli):
    """Failures of a trial's own are results; those of the data or a folder end the sweep, and the trial stays open."""
    (tmp_path / "small.py").write_text(NET)
    network = {"model.network": ["small.Net"], "model.network.width": [4]}
    path = write(search={"seed_everything": [0, 1], **network}, **{"try": {"wild": {"model.optimizer.lr": 1e30}}})
    args = ("--trainer.max_epochs=1", "--data.batch_size", "8", "--data.val_size=0.2")
    args += ("--data.source", "ImageFolder", "--data.source.folder", tmp_path / "pictures")
    done = spawn("sweep", path, "--test", *args, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pictures" in done.stderr
    assert not list(tmp_path.glob("lightning_logs/tiny/trial_*/result.json"))
    noise = np.random.default_rng(0)
    for number in range(48):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (28, 28), np.uint8)).save(folder / f"{number}.png")
    done = spawn("sweep", path, "--test", *args, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("trial_000 (wild): the training loss is nan after epoch 1")
    assert lines[0].endswith("--model.optimizer.lr=1e+30")
    assert [line[:9] for line in lines[1:3]] == ["trial_001", "trial_002"]
    assert "mean of 2 seeds" in done.stdout

    rows = [*csv.DictReader(io.StringIO(cli("compare", "lightning_logs/tiny", "--format", "csv")[1]))]
    assert {row["status"].partition(":")[0] for row in rows} == {"finished", "failed", "mean of 2 seeds"}
    both = [row for row in rows if row["status"] == "finished"]
    assert {row["run"] for row in both} == {"tiny/trial_001", "tiny/trial_002"}
    options = ("--model.network", "small.Net", "--ckpt_path", both[0]["run"])
    assert cli("validate", *options)[0] == 0, "compare prints what --ckpt_path accepts"
    seeds = next(row for row in rows if row["status"] == "mean of 2 seeds")
    accuracies = [float(row["test/acc"]) for row in both]
    assert float(seeds["test/acc"]) == pytest.approx(statistics.mean(accuracies))
    assert float(seeds["test/acc std"]) == pytest.approx(statistics.stdev(accuracies))
    run = newest_run(tmp_path / "lightning_logs/tiny/trial_002")
    assert (run / "ended").exists()
    assert (run / "test" / "report.html").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.signals
def test_a_sweep_that_is_stopped_stops_its_run(write, tmp_path, few, name):
    path = write(search={"seed_everything": [0]})
    options = (*source(few), "--data.val_size=500", "--trainer.max_epochs=100000")
    with start("sweep", path, *options, cwd=tmp_path) as sweep:
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")
        trial = tmp_path / "lightning_logs/tiny/trial_000"
        while not [*trial.rglob("last.ckpt")]:
            assert sweep.poll() is None
            time.sleep(0.05)
        (run,) = children.read_text().split()
        sweep.send_signal(getattr(signal, name))
        sweep.communicate(timeout=200)
    assert sweep.returncode == 143
    assert not Path(f"/proc/{run}").exists()
    assert not (trial / "result.json").exists()


def test_the_best_is_named_with_a_command_for_five_seeds(write, tmp_path, capsys):
    search = {"model.dropout": [0.0, 0.1], "model.hidden_dims": [[8]]}
    plan, folder = begin(write(metric="val/loss", search=search))
    for loss in (0.5, 0.4):
        add(plan, folder).finish("complete", value=loss)
    _print_best(plan, folder, ["--trainer.max_epochs", "3"])
    best, command = capsys.readouterr().out.splitlines()[-2:]
    assert best.startswith(f"best: {folder / 'trial_001'}; ")
    args = shlex.split(command.partition(": ")[2])
    assert args[:2] == ["fmnist", "sweep"]
    assert args[3:] == ["--test", "--trainer.max_epochs", "3"]
    points = [*read_plan(Path(args[2])).grid()]
    assert [point.pop("seed_everything") for point in points] == [0, 1, 2, 3, 4]
    assert points == 5 * [{"config": str(tmp_path / "mlp.yaml"), "model.dropout": 0.1, "model.hidden_dims": [8]}]


def test_nothing_is_trained_with_five_seeds_where_named_points_have_seeds(write, capsys):
    plan, folder = begin(write(**{"try": {"first": {"seed_everything": 0}, "second": {"seed_everything": 1}}}))
    for loss in (0.5, 0.4):
        add(plan, folder).finish("complete", value=loss)
    _print_best(plan, folder, [])
    assert "five seeds" not in capsys.readouterr().out
