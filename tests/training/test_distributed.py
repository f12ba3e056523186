"""Several real processes on the CPU; but for the first training, those that Lightning starts are forked, too."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from fmnist import FashionMNISTDataModule, ImageClassifier, TorchVision
from fmnist.model.calibration import fit_temperature
from tests.conftest import ROOT, Popen, source, spawn, start
from tests.forkserver import Executed

pytestmark = pytest.mark.signals
TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2")
LITTLE = ("--config", ROOT / "configs" / "mlp.yaml", "--model.hidden_dims=[16]", "--data.batch_size=64")
LITTLE += ("--data.val_size=500",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few):
    """A folder with a run that two processes have trained, which are executed as a user does."""
    workplace = tmp_path_factory.mktemp("trained")
    words = (*LITTLE, *source(few), "--model.optimizer.lr=0.1", "--trainer.max_epochs=1")
    done = spawn("fit", *words, *TWO, cwd=workplace, popen=Executed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fit on 2 x cpu" in done.stdout
    assert done.stdout.count("epoch 1/1") == 1
    return workplace


def test_two_processes_make_one_run_and_count_every_sample_once(trained, few):
    assert [path.name for path in (trained / "lightning_logs").iterdir()] == ["version_0"]
    run = trained / "lightning_logs" / "version_0"
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "71"  # 4,500 images in global batches of 64
    assert float(row["val/acc"]) > 0.7
    model = ImageClassifier.load_from_checkpoint(run / "checkpoints/last.ckpt").eval()
    data = FashionMNISTDataModule(TorchVision("MNIST", str(few)), val_size=500)
    data.setup("validate")
    one = fit_temperature(model(data.val_set.images).detach(), data.val_set.labels)
    assert model.temperature.item() == pytest.approx(one, rel=1e-5), "two processes fit the temperature that one fits"
    assert one != 1


def test_three_processes_count_every_image_in_order(trained):
    three = ("--trainer.accelerator=cpu", "--trainer.devices=3")
    results = []
    for name, devices in (("one.csv", ()), ("three.csv", three)):
        done = spawn("predict", "--output", name, *devices, cwd=trained)
        assert (done.returncode, done.stderr) == (0, "")
        done = spawn("test", *devices, cwd=trained)
        assert (done.returncode, done.stderr) == (0, "")
        metrics = json.loads((trained / "lightning_logs/version_0/test/metrics.json").read_text())
        results.append({key: metrics[key] for key in metrics.keys() - {"device", "seconds", "date"}})
    one, three = ((trained / name).read_text().splitlines() for name in ("one.csv", "three.csv"))
    assert len(one) == len(three) == 1101
    assert one == three, "all digits of all probabilities"
    assert results[0] == results[1], "all digits of all metrics"
    assert results[0]["num_samples"] == 1100


@pytest.fixture
def weights(workplace, few):
    """Trains on a thousand images. Returns the weights after so many epochs on so many processes."""

    def weights(processes, *words):
        root = f"{processes}_{len(words)}"
        plain = ("--model.normalization=none", "--model.mixup=0", "--data.shift=0", "--data.batch_size=128")
        plain += ("--model.hidden_dims=[32]",)
        words = (*source(few), "--data.val_size=4000", "--trainer.limit_val_batches=1", *words)
        words += (*plain, "--model.optimizer.lr=0.05")  # nothing that each process draws or counts by itself
        devices = ("--trainer.accelerator=cpu", f"--trainer.devices={processes}")
        done = spawn("fit", *LITTLE, "--trainer.default_root_dir", root, *words, *devices, cwd=workplace)
        assert (done.returncode, done.stderr) == (0, "")
        path = workplace / root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        return {name: tensor for name, tensor in state.items() if name.startswith("network")}

    return weights


def test_processes_train_as_one_does(weights):
    words = ("--trainer.precision=64-true", "--trainer.max_epochs=2")
    one = weights(1, *words)
    assert one["network.1.weight"].dtype == torch.float64
    for processes in (2, 4):
        for name, tensor in weights(processes, *words).items():
            assert (tensor - one[name]).abs().max() <= 1e-12 * one[name].abs().max(), (processes, name)


def test_the_first_step_of_processes_is_that_of_one(weights):
    words = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.precision=32-true")
    one, two = (weights(processes, *words) for processes in (1, 2))
    for name, tensor in two.items():
        assert (tensor - one[name]).abs().max() <= 1e-6 * one[name].abs().max(), name


def torchrun(rank, port):
    """Returns what comes before ``-m fmnist`` on a machine, and its environment."""
    words = ("-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1")
    return (*words, "--master_addr=127.0.0.1", f"--master_port={port}"), {}


def slurm(rank, port):
    """Returns what ``torchrun`` does, for the environment that SLURM's ``srun`` makes."""
    names = {"NTASKS": 2, "NTASKS_PER_NODE": 1, "PROCID": rank, "LOCALID": 0, "NODEID": rank, "JOB_ID": 1234}
    names |= {"NODELIST": "127.0.0.1", "JOB_NODELIST": "127.0.0.1", "JOB_NAME": "fmnist"}
    return (), {"MASTER_PORT": str(port), **{f"SLURM_{name}": str(value) for name, value in names.items()}}


@pytest.mark.parametrize("launcher", [torchrun, slurm])
def test_two_nodes_make_one_run(workplace, few, launcher):
    """Two machines are two processes here, each with a data folder and a current folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = (*LITTLE, *source("data"), "--trainer.num_nodes=2", "--trainer.accelerator=cpu")
    words += ("--trainer.max_epochs=2", "--trainer.limit_train_batches=5")
    nodes = []
    for rank in (0, 1):
        folder = workplace / f"node_{rank}"
        folder.mkdir()
        (folder / "data").symlink_to(few)
        launch, variables = launcher(rank, port)
        command = [sys.executable, *launch, "-m", "fmnist", "fit", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        nodes.append(Popen(command, cwd=folder, env=environment, **pipes))
    first, second = (node.communicate(timeout=200)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], first + second
    assert "fit on 2 x cpu" in first
    assert first.count("epoch 2/2") == 1
    assert "epoch" not in second
    assert not (workplace / "node_1" / "lightning_logs").exists()
    (run,) = (workplace / "node_0" / "lightning_logs").iterdir()
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    assert (run / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_whole_training(workplace, few, victim):
    words = (*LITTLE, *source(few), *TWO, "--trainer.limit_train_batches=5", "--trainer.max_epochs=10000")
    with start("fit", *words, cwd=workplace) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        (child,) = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        killed = time.monotonic()
        os.kill((process.pid, int(child))[victim], signal.SIGKILL)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == (-signal.SIGKILL, 2)[victim]
    assert "fmnist: error: another process of this command has died" in err
    assert "Traceback" not in err
    while True:  # the other one is not our child, so it cannot be waited for
        try:
            os.kill(int(child), 0)
        except ProcessLookupError:
            break
        assert time.monotonic() - killed < 30, "the other process is still there"
        time.sleep(0.1)


def test_batch_that_three_processes_cannot_share(workplace, few):
    words = (*source(few), "--trainer.accelerator=cpu", "--trainer.devices=3")
    done = spawn("fit", *words, cwd=workplace)
    assert done.returncode == 2
    assert "give --data.batch_size 63" in done.stderr
    assert not (workplace / "lightning_logs").exists()
