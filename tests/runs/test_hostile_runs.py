"""Runs that somebody else has made: nothing is written out of them, nothing hangs, what is damaged costs one line."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmnist.files import write_whole
from fmnist.runs import folder as runs

pytestmark = pytest.mark.signals
RUN = Path("lightning_logs/version_0")
HIGHEST = f"version_{'9' * 247}"
FIT = ("fit", "--ckpt_path", RUN, "--trainer.max_epochs", 2)
TEST = ("test", "--ckpt_path", RUN)
SMALL = ("--data.val_size", 100, "--model.hidden_dims", "[4]", "--trainer.max_epochs", 1, "--trainer.logger", "false")
DEEP = '{"acc": ' + "[" * 100_000
FIGURES = {"acc": 0.5, "ece": 0.1, "num_samples": 200}
TABLES = {
    "no epoch": "step,val/acc\n1,0.5\n",
    "epochs that are no numbers": "epoch,val/acc\nnan,0.5\n",
    "an endless epoch": "epoch,val/acc\ninf,0.5\n",
    "ragged": "epoch,val/acc\n1\n2,0.5,0.5\n",
    "text": "epoch,val/acc\n1,high\n",
    "not text": "\udcff",
}


@pytest.fixture(autouse=True)
def limit():
    """Ends a test that hangs."""

    def stop(*_):
        raise AssertionError("this takes too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def workdir(workplace, cli, kept):
    """The current folder, with a run that was trained for one epoch and tested."""
    if not (kept / "lightning_logs").exists():
        (workplace / "lightning_logs" / HIGHEST).mkdir(parents=True)
        assert cli("fit", *SMALL)[::2] == (0, "")
        assert cli(*TEST)[0] == 0
        (workplace / "lightning_logs").rename(kept / "lightning_logs")
    shutil.copytree(kept / "lightning_logs", "lightning_logs")
    return workplace


def content(folder):
    """Returns every file below a folder, with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_an_endless_number_stops_nobody(workdir):
    assert (workdir / "lightning_logs" / HIGHEST).is_dir()
    assert RUN.is_dir(), "the run got the first number"
    assert runs.claim(workdir, "settings").name == "version_1"


@pytest.mark.parametrize("args", [FIT, TEST], ids=["fit", "test"])
@pytest.mark.parametrize(
    "name", ["times.csv", "ended", "name", "lock", "metrics.csv", "test/report.html", "checkpoints", "test", "."]
)
def test_links_are_not_followed(workdir, cli, args, name):
    victim, link = workdir / "victim", RUN / name
    if link.is_dir():
        link.rename(victim)
    else:
        victim.write_text("mine")
        link.unlink(missing_ok=True)
    link.symlink_to(victim)
    before = content(victim) if victim.is_dir() else victim.read_text()
    code, _, err = cli(*args)
    assert (code, err.count("\n")) == (2, 1), err
    assert " is a link" in err
    assert before == (content(victim) if victim.is_dir() else victim.read_text())


def test_a_link_to_nothing_makes_nothing(workdir, cli):
    (RUN / "ended").unlink()
    (RUN / "ended").symlink_to(workdir / "made")
    assert cli("fit", "--ckpt_path", RUN)[0] == 2
    assert not (workdir / "made").exists()


def test_results_beside_a_checkpoint_do_not_follow_links_either(workdir, cli):
    shutil.move(RUN / "checkpoints/best.ckpt", workdir / "best.ckpt")
    (workdir / "victim").mkdir()
    (workdir / "test").symlink_to(workdir / "victim")
    code, _, err = cli("test", "--ckpt_path", "best.ckpt")
    assert code == 2
    assert "test is a link" in err
    assert not content(workdir / "victim")


def test_all_runs_may_lie_on_another_disk(workdir, cli):
    Path("lightning_logs").rename("disk")
    Path("lightning_logs").symlink_to("disk")
    (RUN / "checkpoints/newest.ckpt").symlink_to("last.ckpt")  # as ModelCheckpoint makes them
    assert cli(*FIT)[::2] == (0, "")
    assert cli(*TEST)[0] == 0


@pytest.mark.parametrize("name", ["name", "config.yaml", "metrics.csv", "times.csv", "test/metrics.json"])
def test_pipes_and_devices_are_not_read(workdir, cli, name):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (RUN / name).unlink(missing_ok=True)
        make(RUN / name)
        code, out, _ = cli("compare")
        assert code == 0
        assert "version_0" in out
        code, _, err = cli("predict", "--ckpt_path", "a name", "--images", "x.png")
        assert code == 2
        assert err.count("\n") == 1


def test_a_checkpoint_that_is_too_large_is_not_hashed(workdir, cli):
    (RUN / "checkpoints/best.ckpt").unlink()
    with (RUN / "checkpoints/best.ckpt").open("wb") as file:
        file.truncate(200 << 30)
    began = time.monotonic()
    code, out, _ = cli("compare", "--format", "csv")
    assert time.monotonic() - began < 5
    assert code == 0
    row = next(row for row in csv.DictReader(io.StringIO(out)) if row["run"] == "version_0")
    assert (row["status"], row["test/acc"]) == ("finished", "")


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_history_costs_one_line(workdir, cli, table):
    (RUN / "metrics.csv").write_text(TABLES[table], errors="surrogateescape")
    (RUN / "ended").unlink()
    for args in (("fit", "--ckpt_path", RUN), TEST):
        before = (RUN / "test/metrics.json").read_text()
        code, _, err = cli(*args)
        assert (code, err.count("\n")) == (2, 1), err
        assert f"{RUN / 'metrics.csv'} is damaged (" in err
        assert (RUN / "test/metrics.json").read_text() == before
    out = cli("compare", "--format", "csv")[1]
    assert "broken: metrics.csv is damaged" in out


def test_a_history_with_figures_that_are_not_finite_is_drawn(workdir, cli):
    (RUN / "metrics.csv").write_text("epoch,train/loss,val/acc\n1,nan,inf\n")
    (RUN / "ended").unlink()
    (RUN / "curves.png").unlink()
    assert cli("fit", "--ckpt_path", RUN)[::2] == (0, "")
    assert (RUN / "curves.png").is_file()
    assert cli(*TEST)[0] == 0


@pytest.mark.parametrize(
    "changed",
    [DEEP, "[]", *({**FIGURES, "acc": value} for value in ("0.5", None, [], 10**400, -1)), {**FIGURES, "ece": "x"}],
)
def test_damaged_figures_of_a_test_are_left_out(workdir, cli, changed):
    path = RUN / "test/metrics.json"
    digests = json.loads(path.read_text())["digests"]
    path.write_text(changed if isinstance(changed, str) else json.dumps({**changed, "digests": digests}))
    code, _, _ = cli("export", "--output", "page.html", "--ckpt_path", RUN)
    assert code == 0
    assert '"accuracy"' not in (workdir / "page.html").read_text()
    assert "broken: metrics.json" in cli("compare", "--format", "csv")[1]


def test_a_tag_in_a_configuration_costs_one_line(workdir, cli):
    with (RUN / "config.yaml").open("a") as file:
        file.write("remark: !!binary aGFsbG8=\n")
    code, _, err = cli(*FIT)
    assert (code, err.count("\n")) == (2, 1)
    assert "it has the tag" in err
    assert "broken: it has the tag" in cli("compare", "--format", "csv")[1]


def test_many_nested_folders_are_no_trouble(workdir, cli):
    here = os.getcwd()  # noqa: PTH109
    os.chdir("lightning_logs")
    for _ in range(1300):
        os.mkdir("d")  # noqa: PTH102
        os.chdir("d")
    os.chdir(here)
    code, out, err = cli("compare")
    subprocess.run(["rm", "-rf", "lightning_logs/d"], check=True)  # pytest fails to
    assert (code, err) == (0, "")
    assert "version_0" in out


def test_the_page_says_nothing_of_the_folders_above_the_run(workdir, cli):
    path = (workdir / RUN).absolute() / "checkpoints/best.ckpt"
    shutil.copy(path, workdir / "secret.ckpt")
    for checkpoint in (path, workdir / "secret.ckpt"):
        assert cli("export", "--output", "page.html", "--overwrite", "--ckpt_path", checkpoint)[0] == 0
        page = (workdir / "page.html").read_text()
        assert str(workdir) not in page


def test_pictures_are_saved_inside_the_folder_that_was_given(workdir, cli):
    for name in ("a/2.png", "x/1.png"):
        (workdir / name).parent.mkdir()
        Image.fromarray(np.full((28, 28), 200, np.uint8)).save(workdir / name)
    before = {*content(workdir)}
    args = ("--images", "a/../x/1.png", "a/2.png", workdir / "x/1.png")
    assert cli("predict", *args, "--ckpt_path", RUN, "--save_converted", "work/seen", "--output", "-")[0] == 0
    made = {path.relative_to(workdir).as_posix() for path in {*content(workdir)} - before}
    assert made == {"work/seen/x/1.png", "work/seen/a/2.png"}


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_command_that_is_stopped_leaves_no_half_file(workdir, cli, monkeypatch, command):
    real = os.fsync
    Image.fromarray(np.full((28, 28), 200, np.uint8)).save("x.png")

    def stop(handle):
        assert [*workdir.glob(".out.*.part")]
        os.kill(os.getpid(), signal.SIGTERM)
        real(handle)

    def fail(*_):
        raise AssertionError("nobody expects the signal")

    before = signal.signal(signal.SIGTERM, fail)
    monkeypatch.setattr(os, "fsync", stop)
    args = ("--images", "x.png", "--output", "out.csv") if command == "predict" else ("--output", "out.html")
    try:
        assert cli(command, *args, "--ckpt_path", RUN)[0] == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [*workdir.glob("*out.*")]


def test_a_new_name_reaches_the_disk(tmp_path, monkeypatch):
    real, synced = os.fsync, []

    def note(handle):
        synced.append((os.fstat(handle).st_ino, sorted(path.name for path in tmp_path.iterdir())))
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_whole(tmp_path / "result.json", "{}")
    assert synced[-1] == (tmp_path.stat().st_ino, ["result.json"]), "after the rename"
    logs = runs.claim(tmp_path, "settings").parent
    assert [number for number, _ in synced[-2:]] == [logs.stat().st_ino, tmp_path.stat().st_ino]
