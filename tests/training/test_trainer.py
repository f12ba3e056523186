"""Lightning's callbacks and the settings of its trainer, by their flags: they work, or one line says what to do."""

import os
from pathlib import Path

import pytest
import torch
import yaml

RUN = Path("lightning_logs/version_0")
SMALL = ("--data.val_size", 100, "--model.hidden_dims", "[16]", "--trainer.max_epochs", 2)
EMA = ("EMAWeightAveraging", "decay=0.5")
PRUNING = ("ModelPruning", "pruning_fn=l1_unstructured", "amount=0.5")
OWN = ("ModelCheckpoint", "monitor=val/loss")
TIMER = ("Timer", "duration=00:01:00:00")


def callback(name, *settings):
    return (f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{setting}" for setting in settings))


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("added", [EMA, PRUNING, TIMER, OWN], ids=lambda added: added[0])
def test_a_callback_works_and_its_run_can_be_continued_and_repeated(workplace, cli, added):
    code, out, err = cli("fit", *SMALL, *callback(*added))
    assert (code, err) == (0, "")
    assert f"best: {RUN}/checkpoints/best.ckpt (val acc " in out
    config = (RUN / "config.yaml").read_text()
    assert yaml.safe_load(config)["trainer"]["callbacks"][0]["class_path"].endswith(added[0])
    assert cli("fit", "--config", RUN / "config.yaml")[0] == 0
    assert Path("lightning_logs/version_1/config.yaml").read_text() == config
    code, _, err = cli("fit", "--ckpt_path", RUN, "--trainer.max_epochs", 4)
    assert (code, err) == (0, "")


@pytest.mark.filterwarnings("ignore:.*(flops_per_batch|was called without a model|there is no last checkpoint)")
def test_many_callbacks_work_side_by_side(workplace, cli):
    added = [
        ("WeightAveraging",),
        ("GradientAccumulationScheduler", "scheduling={0: 2}"),
        ("LearningRateMonitor",),
        ("ModelSummary",),
        ("LambdaCallback",),
        ("OnExceptionCheckpoint", "dirpath=there"),
        ("EarlyStopping", "monitor=val/loss"),
        ("ThroughputMonitor", "batch_size_fn=builtins.len"),
        ("SpikeDetection",),
        ("TQDMProgressBar",),
    ]
    code, out, _ = cli("fit", *SMALL, *(word for one in added for word in callback(*one)))
    assert code == 0
    assert "best.ckpt (val acc " in out


def test_a_training_that_searched_its_batch_size_is_not_continued(workplace, cli):
    code, _, err = cli("fit", *SMALL, *callback("BatchSizeFinder", "max_trials=1", "init_val=64"))
    assert code == 0
    code, _, err = cli("fit", "--ckpt_path", RUN, "--trainer.max_epochs", 4)
    assert code == 2
    assert "BatchSizeFinder would search again" in err


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_weights_are_averaged_and_saved_with_what_was_measured_of_them(workplace, cli, normalization):
    assert cli("fit", *SMALL, *callback(*EMA), "--model.normalization", normalization)[0] == 0
    saved, first = load(RUN / "checkpoints/last.ckpt"), "network.1.weight"
    assert not torch.equal(saved["state_dict"][first], saved["current_model_state"][first])
    _, out, _ = cli("validate", "--ckpt_path", "last")
    last = (RUN / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert f"\nloss {float(last[5]):.4f}\n" in out


def test_pruned_weights_are_saved_as_zeros(workplace, cli):
    assert cli("fit", *SMALL, *callback(*PRUNING))[0] == 0
    weights = load(RUN / "checkpoints/last.ckpt")["state_dict"]["network.1.weight"]
    assert (weights == 0).float().mean() > 0.4


def test_a_job_of_slurm_that_is_set_wrong_is_one_line(workplace, cli):
    names = {"JOB_ID": "77", "JOB_NAME": "train", "NTASKS": "4", "PROCID": "0", "LOCALID": "0", "NODELIST": "localhost"}
    os.environ.update({f"SLURM_{name}": value for name, value in names.items()})
    code, _, err = cli("fit", *SMALL)
    assert code == 2
    assert "Use `--ntasks-per-node=4` instead" in err


def test_a_bug_keeps_its_traceback(workplace, cli, monkeypatch):
    (workplace / "faulty.py").write_text(
        "import torch\nfrom lightning.pytorch import Callback\n"
        "class Faulty(Callback):\n"
        "    def on_train_start(self, *_): torch.nn.functional.linear(torch.ones(2), torch.ones(3))\n"
    )
    monkeypatch.syspath_prepend(workplace)
    with pytest.raises(RuntimeError):
        cli("fit", *SMALL, "--trainer.callbacks+=faulty.Faulty")


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.max_steps", 5],
        ["--trainer.check_val_every_n_epoch", 5],
        ["--trainer.limit_val_batches", 0],
        ["--trainer.max_epochs", -1, "--trainer.max_time", "00:00:00:01", "--trainer.check_val_every_n_epoch", 10**6],
    ],
)
def test_a_training_without_validation_leaves_something_to_test(workplace, cli, words):
    code, out, err = cli("fit", *SMALL, *words)
    assert (code, err) == (0, "")
    assert "best.ckpt (last epoch, no validation)" in out
    best, last = (load(RUN / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert best["epoch"] == last["epoch"]
    assert torch.equal(best["state_dict"]["network.1.weight"], last["state_dict"]["network.1.weight"])
    assert cli("test")[0] == 0


def test_the_first_validation_replaces_what_was_kept_without_one(workplace, cli):
    assert cli("fit", *SMALL, "--trainer.check_val_every_n_epoch", 3)[0] == 0
    assert load(RUN / "checkpoints/best.ckpt")["epoch"] == 1
    code, out, _ = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert code == 0
    assert "best.ckpt (val acc " in out
    assert load(RUN / "checkpoints/best.ckpt")["epoch"] == 2


def test_a_training_without_checkpoints_is_possible(workplace, cli):
    code, _, err = cli("fit", *SMALL, "--trainer.enable_checkpointing", "false")
    assert (code, err) == (0, "")
    assert (RUN / "metrics.csv").is_file()
    assert not list(RUN.rglob("*.ckpt"))


def test_torchrun_decides_the_number_of_devices(workplace, cli):
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    _, out, _ = cli("fit", "--print_config")
    assert yaml.safe_load(out)["trainer"]["devices"] == 2


def test_the_backend_of_a_notebook_is_not_that_of_its_commands(cli):
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    assert cli("--version")[0] == 0
    assert "MPLBACKEND" not in os.environ
