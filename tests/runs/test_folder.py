import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fmnist import UserError
from fmnist.runs import folder as runs
from tests.conftest import ROOT


def make(root, version, *names):
    folder = root / "lightning_logs" / f"version_{version}" / "checkpoints"
    folder.mkdir(parents=True)
    (folder.parent / "config.yaml").touch()
    for name in names:
        (folder / f"{name}.ckpt").touch()
    return folder


def test_claims_the_next_number(tmp_path):
    folder = runs.claim(tmp_path, "settings")
    assert folder == tmp_path / "lightning_logs" / "version_0"
    assert (folder / "config.yaml").read_text() == "settings"
    make(tmp_path, 9)
    make(tmp_path, "9_copy")
    assert runs.claim(tmp_path, "").name == "version_10"


def test_nobody_claims_the_same_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(runs.claim, [tmp_path] * 40, map(str, range(40))))
    assert len(set(claimed)) == 40
    assert {(folder / "config.yaml").read_text() for folder in claimed} == {str(n) for n in range(40)}
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 40


@pytest.mark.parametrize("refusals", [2, 99])
def test_a_new_folder_that_a_scanner_looks_into_leaves_no_draft(tmp_path, monkeypatch, refusals):
    """Emulated: on Windows a folder cannot be renamed while a file in it is open."""
    waiting, rename = iter(range(refusals)), Path.rename

    def refuse(self, target):
        if next(waiting, None) is not None:
            raise PermissionError(13, "Access is denied", str(self), None, str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if refusals == 2:
        assert runs.claim(tmp_path, "config").name == "version_0"
    else:
        with pytest.raises(PermissionError):
            runs.claim(tmp_path, "config")
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"] * (refusals == 2)


def test_finds_the_newest_run_that_has_the_checkpoint(tmp_path):
    make(tmp_path, 2, "best", "last")
    newest = make(tmp_path, 10, "best")
    make(tmp_path, 11)
    assert runs.find_checkpoint(None, tmp_path) == newest / "best.ckpt"
    assert runs.find_checkpoint("best", tmp_path) == newest / "best.ckpt"
    assert runs.find_checkpoint("last", tmp_path).parent.parent.name == "version_2"


def test_a_run_is_continued_even_if_it_has_no_checkpoint_yet(tmp_path):
    make(tmp_path, 2, "best", "last")
    stopped = make(tmp_path, 3)
    assert runs.find_checkpoint("last", tmp_path, to_continue=True) == stopped / "last.ckpt"
    assert runs.find_checkpoint("best", tmp_path, to_continue=True).parent.parent.name == "version_2"


def test_a_path_is_used_as_it_is(tmp_path):
    path = make(tmp_path, 0, "other") / "other.ckpt"
    assert runs.find_checkpoint(str(path), tmp_path) == path


def test_the_error_says_what_to_do_when_there_is_none(tmp_path):
    with pytest.raises(UserError, match=r"no trained model in .*lightning_logs: run 'fmnist fit"):
        runs.find_checkpoint(None, tmp_path)
    make(tmp_path, 3, "best")
    with pytest.raises(UserError, match=r"nope: there is no such file; the newest run's is .*version_3"):
        runs.find_checkpoint("nope", tmp_path)


def test_the_network_of_the_package_is_used_where_nothing_is_named_and_nothing_is_trained(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    make(Path(), 0)  # a run that has not finished an epoch
    assert runs.find_checkpoints([], Path(), or_bundled=True) == [runs.BUNDLED]
    assert capsys.readouterr().err == f"note: {runs.BUNDLED_NOTE}\n"
    for specs, root in (([], Path("elsewhere")), (["best"], Path()), (["nope"], Path())):
        with pytest.raises(UserError, match="no trained model in"):
            runs.find_checkpoints(specs, root, or_bundled=True)
    with pytest.raises(UserError, match="no trained model in"):
        runs.find_checkpoints([], Path())
    trained = make(Path(), 1, "best")
    assert runs.find_checkpoints([], Path(), or_bundled=True) == [trained / "best.ckpt"]
    assert capsys.readouterr().err == ""


def test_a_run_can_be_named_by_its_folder(tmp_path):
    folder = make(tmp_path, 0, "best", "last")
    assert runs.find_checkpoint(str(folder.parent), tmp_path) == folder / "best.ckpt"
    assert runs.find_checkpoint(str(folder.parent), tmp_path, to_continue=True) == folder / "last.ckpt"
    stopped = make(tmp_path, 1)
    assert runs.find_checkpoint(str(stopped.parent), tmp_path, to_continue=True) == stopped / "last.ckpt"
    with pytest.raises(UserError, match="there is no such file"):
        runs.find_checkpoint(str(stopped.parent), tmp_path)


def test_one_process_at_a_time_has_a_run(tmp_path):
    first = runs.lock(tmp_path)
    assert runs.lock(tmp_path) is None
    os.close(first)
    os.close(runs.lock(tmp_path))


def test_knows_the_run_of_a_checkpoint(tmp_path):
    folder = make(tmp_path, 0, "best")
    assert runs.run_folder(folder / "best.ckpt") == folder.parent
    assert runs.run_folder(tmp_path / "best.ckpt") is None


def test_does_not_import_torch():
    code = "import sys, fmnist.runs, fmnist.__main__; assert not {'torch', 'lightning'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_run_can_have_a_name(tmp_path):
    folder = make(tmp_path, 0, "best", "last")
    (folder.parent / "name").write_text("baseline")
    assert runs.find_checkpoint("baseline", tmp_path) == folder / "best.ckpt"
    assert runs.find_checkpoint("baseline", tmp_path, to_continue=True) == folder / "last.ckpt"
    run = runs.claim(tmp_path, "settings", "größer")
    assert (runs.read_name(run), runs.read_name(folder)) == ("größer", None)
    decomposed = unicodedata.normalize("NFD", "größer")
    assert runs.locate(decomposed, tmp_path) == run
    with pytest.raises(UserError, match="this is the name of"):
        runs.check_name(decomposed, tmp_path)
    for name in ("baseline", "best", "last", "version_7", "a/b", "a\\b", "", " a", "a\n", "x" * 61):
        with pytest.raises(UserError, match=r"^--name "):
            runs.claim(tmp_path, "settings", name) if name else runs.check_name(name, tmp_path)
    assert len([*(tmp_path / "lightning_logs").iterdir()]) == 2, "nothing half is left"
