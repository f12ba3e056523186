"""Shared fixtures: no network, a small data set in the real format, the real data set, the real command line."""

import gzip
import hashlib
import importlib
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with two threads each would stand in each other's way

import numpy as np
import pytest
from filelock import FileLock

from fmnist.__main__ import main
from fmnist.data.sources import download
from tests.forkserver import COMMAND, ROOT, Popen

TRAIN_SIZE, TEST_SIZE = 600, 200
EMA = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")
RECIPE = ("--model.hidden_dims=[64,32]", "--trainer.max_epochs=2", *EMA)  # of the run that all tests share
LONGEST = ["test_benchmarks", "test_tour", "test_crash", "test_page", "test_fit", "test_distributed", "test_real"]
LONGEST += [
    "test_examples",
    "test_readme",
    "test_network",
    "test_options",
    "test_fuzz",
    "test_ensemble",
    "test_own_data",
]


def pytest_collection_modifyitems(items):
    """Puts the longest files first: begun last, one would run alone while the other process has nothing to do."""
    items.sort(key=lambda item: [*LONGEST, item.path.stem].index(item.path.stem))


def pytest_sessionfinish():
    """Ends the processes that failed tests have left, for which this one would wait."""
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture(autouse=True)
def no_network(monkeypatch, request):
    """Fails a test that reaches for another machine, unless it is marked with ``network``."""
    if "network" in request.keywords:
        return
    real_connect = socket.socket.connect

    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return real_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def clean_environment():
    """Takes back the variables that a command sets, in a test or in a fixture of all."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def idx(array):
    """Encodes an array of bytes in the IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def small_contents():
    """Four IDX files with 600 training and 200 test images; each class is a bright band at a place of its own."""
    random = np.random.default_rng(0)
    contents = {}
    for prefix, size in (("train", TRAIN_SIZE), ("t10k", TEST_SIZE)):
        labels = random.permutation(np.arange(size) % 10)
        images = random.integers(0, 120, (size, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 3 : 2 * label + 6] += 100
        contents[f"{prefix}-images-idx3-ubyte"] = idx(images)
        contents[f"{prefix}-labels-idx1-ubyte"] = idx(labels)
    return contents


@pytest.fixture(scope="session")
def small_files(small_contents):
    """Makes the small files pass for the published ones. Returns a function of a patch and of their system folder."""

    def use(patch, folder):
        files = {name: (len(data), hashlib.md5(data).hexdigest()) for name, data in small_contents.items()}
        patch.setattr(download.VerifiedFashionMNIST, "files", files)
        for name, data in small_contents.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))
        patch.setenv("FMNIST_DATA", str(folder))

    return use


@pytest.fixture
def small_data(small_files, tmp_path, monkeypatch):
    """The small data set in a system folder, as if it were the published one. Returns that folder."""
    folder = tmp_path / "system"
    folder.mkdir()
    small_files(monkeypatch, folder)
    return folder


@pytest.fixture
def workplace(small_data, tmp_path, monkeypatch):
    """An empty current folder, with the small data set within reach. Returns the folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Makes folders that all processes of the test runner read. Returns a function of a name and of what fills one."""
    top = tmp_path_factory.getbasetemp()
    top = top.parent if "PYTEST_XDIST_WORKER" in os.environ else top

    def share(name, fill):
        with FileLock(top / f"{name}.lock"):
            if not (top / name).exists():
                draft = Path(tempfile.mkdtemp(dir=top))
                fill(draft)
                draft.rename(top / name)
        return top / name

    return share


@pytest.fixture(scope="session")
def real_root(shared):
    """The real data set, obtained by the project's own chain. Returns ``root``."""
    given = os.environ.get("FMNIST_TEST_ROOT")

    def fill(folder):
        obtained = download.VerifiedFashionMNIST(given or folder, train=False)
        if given:  # links: a test that goes wrong must not replace the files
            shutil.copytree(obtained.raw_folder, folder / "FashionMNIST/raw", copy_function=link)

    def link(source, target):
        Path(target).symlink_to(Path(source).resolve())

    return shared("real", fill)


@pytest.fixture(scope="session")
def few(shared, real_root):
    """A folder with the first of the real images, 5,000 to train on and 1,100 to test on, by the names of MNIST.

    The processes of a test can have it, other than the small data set: ``source`` makes their options.
    """

    def fill(folder):
        raw = folder / "MNIST/raw"
        raw.mkdir(parents=True)
        for prefix, count in (("train", 5000), ("t10k", 1100)):
            part = download.VerifiedFashionMNIST(real_root, train=prefix == "train")
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(part.data[:count].numpy()))
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(part.targets[:count].numpy()))

    return shared("few", fill)


def source(folder):
    """Returns the options for the data in a folder that ``few`` has made."""
    return ("--data.source=TorchVision", "--data.source.name=MNIST", f"--data.source.folder={folder}")


@pytest.fixture(scope="session")
def tested(shared, real_root):
    """A folder with a run on the real images, tested and predicted (``test.csv``), which nobody changes.

    It has batch normalization, averaged weights and what is fitted on validation images.
    """

    def fill(folder):
        train(folder, real_root, *RECIPE)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(["test"]) == main(["predict", "--output", "test.csv"]) == 0

    return shared("tested", fill)


@pytest.fixture(scope="session")
def browser(shared):
    """A real browser."""
    from tests.browser import open_browser

    with open_browser(shared) as browser:
        yield browser


@pytest.fixture
def cli(capsys):
    """Runs the command line in this process. Returns its exit code, standard output and standard error."""

    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script of ``benchmarks/`` here; what it starts of ``python -m fmnist`` is forked.

    Returns its exit code and what it has printed.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def run(name, *words):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        monkeypatch.setattr(subprocess, "Popen", Popen)
        code = module.main()
        return code or 0, capsys.readouterr().out

    return run


def train(folder, real_root, *words):
    """Trains a small network by ``configs/mlp.yaml`` on the real images, in a folder. Returns the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = ["--config", str(ROOT / "configs/mlp.yaml"), "--data.source.root", str(real_root)]
        assert main(["fit", *config, *words]) == 0
    return folder


def spawn(*words, cwd, popen=Popen, **environment):
    """Runs ``python -m fmnist`` in a process: a forked one, or one that ``Executed`` starts."""
    with start(*words, cwd=cwd, popen=popen, **environment) as process:
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def start(*words, cwd, popen=Popen, stderr=subprocess.PIPE, **environment):
    """Starts ``python -m fmnist`` in a process, with pipes for what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [*COMMAND, *map(str, words)]
    return popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)
