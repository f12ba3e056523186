"""Several real processes on the CPU: the first of a training is forked, Lightning executes the others."""

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

from fmnist import FashionMNIST, FashionMNISTDataModule, ImageClassifier
from fmnist.model.calibration import fit_temperature
from tests.conftest import ROOT, Popen, spawn, start

TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, real_root):
    """A folder with a run that two processes have trained."""
    workplace = tmp_path_factory.mktemp("trained")
    words = ("--data.source.root", real_root, "--model.hidden_dims=[16]", "--trainer.max_epochs=1")
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
    assert row["step"] == "108"  # 55,000 images in global batches of 512
    assert float(row["val/acc"]) > 0.7
    model = ImageClassifier.load_from_checkpoint(run / "checkpoints/last.ckpt").eval()
    data = FashionMNISTDataModule(FashionMNIST(str(real_root)))
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
    assert len(one) == len(three) == 10_001
    assert one == three, "all digits of all probabilities"
    assert results[0] == results[1], "all digits of all metrics"
    assert results[0]["num_samples"] == 10_000


@pytest.fixture
def weights(workplace, real_root):
    """Trains on a thousand images. Returns the weights after so many epochs on so many processes."""

    def weights(processes, *words):
        root = f"{processes}_{len(words)}"
        plain = ("--model.normalization=none", "--model.mixup=0", "--data.shift=0", "--data.batch_size=128")
        plain += ("--model.hidden_dims=[32]",)
        words = ("--data.source.root", real_root, "--data.val_size=59000", "--trainer.limit_val_batches=1", *words)
        words += (*plain, "--model.optimizer.lr=0.05")  # nothing that each process draws or counts by itself
        devices = ("--trainer.accelerator=cpu", f"--trainer.devices={processes}")
        config = ("--config", ROOT / "configs" / "mlp.yaml", "--trainer.default_root_dir", root)
        done = spawn("fit", *config, *words, *devices, cwd=workplace)
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
    words = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.enable_progress_bar=false")
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
def test_two_nodes_make_one_run(workplace, real_root, launcher):
    """Two machines are two processes here, each with a data folder and a current folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("--config", ROOT / "configs" / "mlp.yaml", "--data.source.root=data", "--trainer.num_nodes=2")
    words += ("--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.limit_train_batches=5")
    words += ("--model.hidden_dims=[16]",)
    nodes = []
    for rank in (0, 1):
        folder = workplace / f"node_{rank}"
        folder.mkdir()
        (folder / "data").symlink_to(real_root)
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
def test_a_process_that_dies_ends_the_whole_training(workplace, real_root, victim):
    words = ["--config", ROOT / "configs" / "mlp.yaml", "--data.source.root", real_root, *TWO]
    words += ["--trainer.limit_train_batches=5", "--trainer.max_epochs=10000", "--model.hidden_dims=[16]"]
    with start("fit", *words, cwd=workplace) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        (child,) = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        killed = time.monotonic()
        os.kill((process.pid, int(child))[victim], signal.SIGKILL)
        err = process.communicate(timeout=60)[1]
    assert time.monotonic() - killed < 30
    assert process.returncode == (-signal.SIGKILL, 2)[victim]
    assert "fmnist: error: another process of this command has ended" in err
    assert "Traceback" not in err
    while True:  # the other one is not our child, so it cannot be waited for
        try:
            os.kill(int(child), 0)
        except ProcessLookupError:
            break
        assert time.monotonic() - killed < 30, "the other process is still there"
        time.sleep(0.1)


def test_batch_that_three_processes_cannot_share(workplace, real_root):
    words = ("--data.source.root", real_root, "--trainer.accelerator=cpu", "--trainer.devices=3")
    done = spawn("fit", *words, cwd=workplace)
    assert done.returncode == 2
    assert "give --data.batch_size 63" in done.stderr
    assert not (workplace / "lightning_logs").exists()
