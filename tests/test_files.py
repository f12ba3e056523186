import subprocess
import sys
from pathlib import Path

import pytest

from fmnist.files import atomic_path, write_whole
from tests.conftest import ROOT


def test_file_appears_complete_and_alone(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_path(path) as part:
        part.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_failure_keeps_the_previous_content(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def fail():
        with atomic_path(path) as part:
            part.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.signals
def test_a_killed_process_leaves_the_previous_content(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    code = """
import os, pathlib, signal, sys
from fmnist.files import atomic_path
with atomic_path(pathlib.Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == -9
    assert path.read_text() == "before"


def test_failure_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "missing" / "file.txt"
    with pytest.raises(FileNotFoundError) as caught, atomic_path(path) as part:
        part.write_text("content")
    assert caught.value.filename == str(path)
    assert not path.parent.exists(), "a folder that was removed does not come back"


@pytest.mark.parametrize(("refusals", "content"), [(3, "new"), (99, "before")])
def test_a_file_that_is_open_elsewhere_on_windows_is_tried_again_for_a_moment(tmp_path, monkeypatch, refusals, content):
    """Emulated: there a file cannot be replaced while a program has it open."""
    path, waiting, replace = tmp_path / "metrics.csv", iter(range(refusals)), Path.replace

    def refuse(self, target):
        if next(waiting, None) is not None:
            raise PermissionError(13, "Access is denied", str(self), None, str(target))
        return replace(self, target)

    path.write_text("before")
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if content == "new":
        write_whole(path, "new")
    else:
        with pytest.raises(PermissionError) as caught:
            write_whole(path, "new")
        assert caught.value.filename == str(path)
    assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]
