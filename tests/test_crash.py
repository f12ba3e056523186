"""A short form of ``benchmarks/crash.py``: real processes that are killed, stopped and starved."""

import importlib
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Popen

SCRIPT = ROOT / "benchmarks" / "crash.py"
sys.path.append(str(SCRIPT.parent))
crash = importlib.import_module("crash")


@pytest.fixture(scope="module")
def place(tmp_path_factory, real_root):
    """Where all is tried. The undisturbed training, which all others equal, is not forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash, "OPTIONS", (*crash.OPTIONS, "--model.hidden_dims=[64,64]"))
        place = crash.Place(tmp_path_factory.mktemp("crash"), real_root, kills=3, fits=2)
        place.reference()
        yield place


@pytest.mark.parametrize("promise", crash.PROMISES, ids=lambda promise: crash.PROMISES[promise].__name__)
def test_promises_are_kept(place, monkeypatch, promise):
    monkeypatch.setattr(subprocess, "Popen", Popen)
    assert crash.PROMISES[promise](place)


def test_the_script_prints_a_row(real_root, tmp_path):
    command = [sys.executable, str(SCRIPT), "--fits=1", "--only=many trainings", f"--root={real_root}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.splitlines()[2].endswith("| 1 trainings, all with equal results | yes |")
    assert not list(tmp_path.iterdir())
