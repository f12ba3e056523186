"""Who may work on a run: one process at a time, also after kill -9, and wherever the folders are."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from fmnist.runs import folder as runs
from tests.conftest import ROOT

fcntl = pytest.importorskip("fcntl")  # Windows has none
pytestmark = pytest.mark.signals
KILLED = """
import os, signal, sys, time
from pathlib import Path
from fmnist.runs.folder import lock
handle = lock(Path(sys.argv[1]))
{child}
os.kill(os.getpid(), signal.SIGKILL)
"""
WORKER = """
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
"""
RUN = """
import subprocess
print(subprocess.Popen(["sleep", "60"], pass_fds=(handle,)).pid, flush=True)
"""


@pytest.fixture
def killed(tmp_path):
    """Lets a process take the lock of a folder, start a child and be killed. Returns whether the folder is free."""
    children = []

    def run(child):
        code = KILLED.format(child=child)
        args = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            children.append(int(process.stdout.readline()))
            assert process.wait(timeout=20) == -signal.SIGKILL
            os.kill(children[0], 0)  # it lives
            free = not runs.is_locked(tmp_path)
            os.kill(children[0], signal.SIGKILL)  # else reading its output would wait for it
        return free

    return run


def is_free_soon(folder):
    end = time.monotonic() + 10
    while runs.is_locked(folder) and time.monotonic() < end:
        time.sleep(0.01)
    return not runs.is_locked(folder)


def test_a_worker_that_outlives_its_run_does_not_keep_the_run(killed, tmp_path):
    assert killed(WORKER) or is_free_soon(tmp_path), "the worker lives for a minute"


def test_a_run_that_outlives_its_sweep_keeps_the_trial(killed, tmp_path):
    assert not killed(RUN)
    assert is_free_soon(tmp_path)


def test_a_forked_process_closes_nothing_but_locks(tmp_path):
    os.close(handle := runs.lock(tmp_path))
    other = os.open(ROOT / "README.md", os.O_RDONLY)  # has the number that the lock had
    assert other == handle
    child = os.fork()
    if child == 0:
        os._exit(len(os.read(other, 1)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    os.close(other)


def test_the_lock_is_of_a_file_that_stays(tmp_path):
    handle = runs.lock(tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.is_file()
    with file.open("r+") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
    assert [*tmp_path.iterdir()] == [file]
    assert not runs.is_locked(tmp_path)


def test_a_link_is_no_lock(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        runs.lock(tmp_path)
    assert not runs.is_locked(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, which says so by an error of its own. Returns how to choose the error."""

    def say(code):
        def fail(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", fail)

    runs._warn_once.cache_clear()
    return say


def test_where_locks_do_not_exist_a_run_is_trained_with_one_warning(workplace, cli, no_locks):
    no_locks(errno.ENOSYS)
    args = ("--data.val_size", 100, "--model.hidden_dims", "[4]", "--trainer.max_epochs")
    code, _, err = cli("fit", *args, 1)
    assert code == 0
    assert err.splitlines() == [
        "warning: this file system has no locks: do not use one run or sweep from two processes"
    ]
    assert cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)[::2] == (0, "")
    code, out, _ = cli("compare", "--format", "csv")
    assert code == 0
    assert "finished" in out
    assert "broken" not in out
    assert "running" not in out


def test_locks_that_do_nothing_are_found_out(tmp_path, monkeypatch, capsys):
    runs._warn_once.cache_clear()
    os.close(runs.lock(tmp_path))
    assert not capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    for _ in range(2):
        os.close(runs.lock(tmp_path))
    assert capsys.readouterr().err.startswith("warning: this file system has no locks: ")


def test_other_errors_than_a_lack_of_locks_are_raised(tmp_path, no_locks):
    for code in (errno.EOPNOTSUPP, errno.ENOLCK):
        no_locks(code)
        os.close(runs.lock(tmp_path))
    no_locks(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        runs.lock(tmp_path)


def test_compare_leaves_nothing(tmp_path, cli):
    run = runs.claim(tmp_path, "trainer: {max_epochs: 1}")
    before = sorted(tmp_path.rglob("*"))
    assert cli("compare", tmp_path)[0] == 0
    assert sorted(tmp_path.rglob("*")) == before
    handle = runs.lock(run)
    assert "running" in cli("compare", tmp_path, "--format", "csv")[1]
    os.close(handle)
    assert "running" not in cli("compare", tmp_path, "--format", "csv")[1]
