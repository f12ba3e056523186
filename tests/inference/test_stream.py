import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.inference.stream import find_pictures
from tests.conftest import spawn

pytestmark = pytest.mark.network

COUNT = 300


@pytest.fixture(scope="module")
def place(tested, real_root, tmp_path_factory):
    """A folder with a trained model, its predictions for the test images, and some of these as files; no data."""
    folder = shutil.copytree(tested, tmp_path_factory.mktemp("pictures") / "place")
    for kind in ("png", "photos"):
        (folder / kind).mkdir()
    for index, image in enumerate(VerifiedFashionMNIST(real_root, train=False).data[:COUNT].numpy()):
        picture = Image.fromarray(image)
        picture.save(folder / "png" / f"{index:04}.png")
        ImageOps.invert(picture).resize((280, 280)).save(folder / "photos" / f"{index:04}.jpg", quality=90)
    config = folder / "lightning_logs/version_0/config.yaml"
    config.write_text(config.read_text().replace(str(real_root), "/nowhere"))
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    yield place
    for path in ("out.csv", "out.jsonl"):
        (place / path).unlink(missing_ok=True)


def read(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_of_the_test_images_get_the_same_class(here, cli):
    code, out, err = cli("predict", "--images", "png", "--output", "out.csv")
    assert (code, err) == (0, "")
    assert f"written: out.csv ({COUNT:,} predictions)" in out
    rows, expected = read("out.csv"), read("test.csv")[:COUNT]
    assert [row["path"] for row in rows] == [f"png/{index:04}.png" for index in range(COUNT)]
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
        assert row["typicality"] == other["typicality"]
        assert row["note"] == ("unlike the training images" if float(row["typicality"]) < 0.01 else "")
        assert row["error"] == ""


def test_photographs_on_white_lose_little(here, cli):
    assert cli("predict", "--images", "photos", "--output", "out.csv")[0] == 0
    rows, expected = read("out.csv"), read("test.csv")[:COUNT]
    actual = [row["actual"] for row in expected]
    direct, photos = (
        sum(row["predicted"] == name for row, name in zip(table, actual, strict=True)) for table in (expected, rows)
    )
    assert photos >= direct - 0.05 * COUNT
    notes = [row["note"] for row in rows]
    assert all(note.startswith("light background: inverted") for note in notes)
    assert notes.count("light background: inverted") >= 0.95 * COUNT


def test_folders_files_and_patterns(here, tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.PNG", "b/1.jpg", "b/notes.txt", "a.png"):
        (tmp_path / name).touch()
    names = [str(tmp_path / name) for name in ("a.png", "b/1.jpg", "b/c/2.PNG")]
    assert find_pictures([str(tmp_path)]) == names
    assert find_pictures([str(tmp_path / "a.png")]) == names[:1]
    assert find_pictures([str(tmp_path / "b" / "*")]) == [names[1], str(tmp_path / "b/notes.txt")]
    assert find_pictures([str(tmp_path / "**" / "*.*")]) == sorted([*names, str(tmp_path / "b/notes.txt")])


def test_a_folder_that_exists_is_no_pattern(tmp_path):
    for folder in ("a [b]", "a b"):
        (tmp_path / folder / "c").mkdir(parents=True)
        (tmp_path / folder / "c/1.png").touch()
    inside = [str(tmp_path / "a [b]/c/1.png")]
    for pattern in ("a [b]", "a [b]/c/*", "a [b]/*/1.png", "a [b]/**/*.png"):
        assert find_pictures([str(tmp_path / pattern)]) == inside
    assert find_pictures([str(tmp_path / "a[ x]b/c/*")]) == [str(tmp_path / "a b/c/1.png")]


def test_patterns_do_not_go_in_circles(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert find_pictures([str(tmp_path / "**" / "*.png")]) == [str(tmp_path / "sub" / "a.png")]


@pytest.mark.signals
def test_unreadable_files_cost_a_row_and_nothing_else(here, cli, tmp_path):
    shutil.copy("png/0000.png", tmp_path / "good, really.png")
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    os.mkfifo(tmp_path / "endless.png")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).write_bytes(Path("png/0001.png").read_bytes())
    code, out, err = cli("predict", "--images", tmp_path, "--output", "out.jsonl")
    assert (code, err) == (0, "")
    assert "written: out.jsonl (2 predictions)" in out
    assert f"warning: {tmp_path}/bad.png is not a picture that can be read; and 1 more of 4 could not be read" in out
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["bad.png", "endless.png", "good, really.png", r"\xff.png"]
    assert [row["error"] for row in rows] == ["is not a picture that can be read", "is not a file", None, None]
    assert rows[0]["predicted"] is None
    assert rows[2]["predicted"] == read("test.csv")[0]["predicted"]
    assert len({tuple(row) for row in rows}) == 1, "every row has the same keys"


def test_nothing_readable_is_an_error_and_leaves_no_file(here, cli, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    code, _, err = cli("predict", "--images", tmp_path, "--output", "out.csv")
    assert code == 2
    assert f"error: {tmp_path}/bad.png is not a picture that can be read" in err
    assert err.count("\n") == 1
    assert not Path("out.csv").exists()


def test_standard_output_carries_predictions_alone(here):
    done = spawn("predict", "--images", "png/000*.png", "--output", "-", cwd=here)
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [f"png/000{index}.png" for index in range(10)]
    assert "predict: lightning_logs/version_0" in done.stderr


def test_what_the_network_saw_can_be_kept(here, cli, tmp_path):
    assert cli("predict", "--images", "photos/000*.jpg", "--output", "-", "--save_converted", tmp_path / "seen")[0] == 0
    seen = sorted((tmp_path / "seen").iterdir())
    assert [path.name for path in seen] == [f"000{index}.jpg.png" for index in range(10)]
    _, out, _ = cli("predict", "--images", tmp_path / "seen", "--output", "-")
    again = [json.loads(line)["predicted"] for line in io.StringIO(out) if line.startswith("{")]
    _, out, _ = cli("predict", "--images", "photos/000*.jpg", "--output", "-")
    assert again == [json.loads(line)["predicted"] for line in io.StringIO(out) if line.startswith("{")]
    with Image.open(seen[0]) as picture:
        assert (picture.mode, picture.size) == ("L", (28, 28))


def test_a_name_that_is_too_long_costs_a_note(here, cli, tmp_path):
    long = tmp_path / "in" / f"{'n' * 248}.jpg"  # .jpg.png is too long for a file system
    long.parent.mkdir()
    for path in (long, long.with_name("a.png")):
        path.write_bytes((here / "png/0000.png").read_bytes())
    words = ("--output", "out.csv", "--save_converted", tmp_path / "seen")
    assert cli("predict", "--images", tmp_path / "in", *words)[0] == 0
    assert [bool(row["predicted"]) for row in read("out.csv")] == [True, True]
    assert "its name is too long" in read("out.csv")[1]["note"]
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["a.png"]


def test_a_pattern_may_be_expanded_by_the_shell(here, cli):
    names = ["png/0000.png", "png/0001.png", "photos/0000.jpg", "png/000[01].png"]
    assert cli("predict", "--images", *names, "--output", "out.csv")[0] == 0
    assert [row["path"] for row in read("out.csv")] == ["photos/0000.jpg", "png/0000.png", "png/0001.png"]
    code, _, err = cli("predict", "--images", *names, "--trainer.precision", "64-true")
    assert (code, err.count("\n")) == (2, 1)
    assert "--trainer.precision is of no use with --images" in err


def test_data_is_not_touched(here, real_root):
    assert not Path("/nowhere").exists()
    assert torch.load("lightning_logs/version_0/checkpoints/best.ckpt", weights_only=True)["epoch"] >= 0


def test_without_an_output_the_three_best_classes_are_printed(here, cli, tmp_path):
    Image.new("RGB", (50, 50), "white").save(tmp_path / "blank.png")
    code, out, err = cli("predict", "--images", "png/000*.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()[1:]
    assert len(lines) == 10
    assert all(line.startswith(f"png/000{number}.png  ") for number, line in enumerate(lines))
    assert all(line.count("%") == 3 for line in lines)
    assert "no class\n  note: nothing but background" in cli("predict", "--images", tmp_path / "blank.png")[1]
    assert cli("predict", "--images", tmp_path / "blank.png", "--output", "blank.csv")[0] == 0
    (row,) = read("blank.csv")
    assert (row["predicted"], row["probability"], row["note"]) == ("", "", "nothing but background")


def test_help_beside_pictures_is_printed_once(workplace, cli):
    code, out, err = cli("predict", "--images", "a.png", "--help")
    assert (code, err, out.count("usage:")) == (0, "", 1)
