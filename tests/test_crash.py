"""A short form of ``benchmarks/crash.py``: real processes that are killed, stopped and starved."""

import importlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Popen, source

pytest.importorskip("pty")  # Windows has none
pytestmark = pytest.mark.signals
sys.path.append(str(ROOT / "benchmarks"))
crash = importlib.import_module("crash")


@pytest.fixture(scope="module")
def place(tmp_path_factory, real_root, few):
    """Where all is tried. The undisturbed training, which all others equal, is not forked."""
    little = ("--data.val_size=500", "--model.hidden_dims=[64,64]", "--trainer.limit_train_batches=30")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash, "OPTIONS", (*crash.OPTIONS, *little))
        place = crash.Place(tmp_path_factory.mktemp("crash"), real_root, kills=3, fits=2)
        place.data = source(few)
        place.reference()
        yield place


@pytest.mark.parametrize("promise", crash.PROMISES, ids=lambda promise: crash.PROMISES[promise].__name__)
def test_promises_are_kept(place, monkeypatch, promise):
    monkeypatch.setattr(subprocess, "Popen", Popen)
    assert crash.PROMISES[promise](place)


def test_the_script_prints_a_row(script, place, real_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out = script("crash", "--fits=1", "--only=many trainings", f"--root={real_root}")
    assert code == 0, out
    assert out.splitlines()[2].endswith("| 1 trainings, all with equal results | yes |")
    assert not list(tmp_path.iterdir())
