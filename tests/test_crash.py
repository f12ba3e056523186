"""A short form of ``benchmarks/crash.py``: real processes that are killed, stopped and starved."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_promises_are_kept(real_root, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "crash.py"), "--kills=3", "--fits=2", f"--root={real_root}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "NO" not in done.stdout
    assert done.stdout.count("| yes |") == 5
    assert not list(tmp_path.iterdir())
