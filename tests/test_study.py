"""``examples/optuna_study.py``: what it promises where several workers share a database, here one of SQLite."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.signals
def test_the_point_of_a_worker_that_is_killed_is_trained_again(real_root, tmp_path):
    command = [sys.executable, ROOT / "benchmarks/study.py", f"--data.source.root={real_root}", "--data.val_size=500"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    *trials, best = done.stdout.splitlines()
    assert [line.split()[2] for line in trials].count("COMPLETE") == 4
    assert "(trial 0 again)" in done.stdout
    assert best.startswith("best: trial ")
