"""Shared fixtures: no network, a small data set in the real format, the real data set, the real command line."""

import gzip
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with two threads each would stand in each other's way

import numpy as np
import pytest

from fmnist.__main__ import main
from fmnist.data.sources import download

ROOT = Path(__file__).parent.parent
TRAIN_SIZE, TEST_SIZE = 600, 200
LONGEST = {"test_benchmarks", "test_distributed", "test_crash", "test_sweep"}  # minutes each


def pytest_collection_modifyitems(items):
    """Puts the longest files first: begun last, one would run alone while the other process has nothing to do."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


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
    """Takes back the variables that a command sets."""
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


@pytest.fixture
def small_data(small_contents, tmp_path, monkeypatch):
    """Makes the small files pass for the published ones, and puts them into a system folder. Returns that folder."""
    files = {name: (len(data), hashlib.md5(data).hexdigest()) for name, data in small_contents.items()}
    monkeypatch.setattr(download.VerifiedFashionMNIST, "files", files)
    folder = tmp_path / "system"
    folder.mkdir()
    for name, data in small_contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))
    monkeypatch.setenv("FMNIST_DATA", str(folder))
    return folder


@pytest.fixture
def workplace(small_data, tmp_path, monkeypatch):
    """An empty current folder, with the small data set within reach. Returns the folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def real_root(tmp_path_factory):
    """The real data set, obtained by the project's own chain. Returns ``root``."""
    root = Path(os.environ.get("FMNIST_TEST_ROOT") or tmp_path_factory.mktemp("real"))
    download.VerifiedFashionMNIST(root, train=False)
    return root


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real browser."""
    from tests.browser import open_browser

    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def cli(capsys):
    """Runs the command line in this process. Returns its exit code, standard output and standard error."""

    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def train(folder, real_root, *words):
    """Trains a small network by ``configs/mlp.yaml`` on the real images, in a folder. Returns the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = ["--config", str(ROOT / "configs/mlp.yaml"), "--data.source.root", str(real_root)]
        assert main(["fit", *config, *words]) == 0
    return folder


def spawn(*words, cwd, **environment):
    """Runs ``python -m fmnist`` in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "fmnist", *map(str, words)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
