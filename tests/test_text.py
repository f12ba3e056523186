"""Names and texts of strangers command neither a terminal nor a spreadsheet."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from fmnist.evaluation.results import class_table
from fmnist.inference.predictions import write_rows
from fmnist.text import plain, table_cell
from tests.conftest import ROOT
from tests.fuzz import CHECKPOINT

# The title, the screen, the clipboard, in eight bits, backwards, over the line
EVIL = ["\x1b]0;pwned\x07", "\x1b[2J", "\x1b]52;c;aGk=\x07", "\x9b2J", "\u202egnp", "\rfmnist: ok"]
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
FRIENDLY = ["T-shirt/top", "短靴", "ｆｕｌｌ　width", "کت‌وشلوار", "👩\u200d🚀", "à la carte"]  # noqa: RUF001


@pytest.fixture
def trained(workplace):
    """A model whose classes have evil names, and a picture of such a name."""
    names = ["".join(EVIL), "=1+1"]
    hparams = {**CHECKPOINT["hyper_parameters"], "class_names": names}
    torch.save({**CHECKPOINT, "hyper_parameters": hparams}, "best.ckpt")
    (workplace / "in").mkdir()
    Image.effect_noise((40, 40), 90).save(workplace / "in" / f"{''.join(EVIL)}.png")
    Image.effect_noise((40, 40), 90).save(workplace / "in" / "=cmd.png")
    return names


def test_predict(trained, cli):
    code, out, err = cli("predict", "--ckpt_path", "best.ckpt", "--images", "in")
    assert code == 0
    assert not CONTROL.search(out + err)
    assert r"\u001b]52;c;aGk=\u0007" in out
    assert len(out.splitlines()) == 3
    code, out, err = cli("predict", "--ckpt_path", "best.ckpt", "--images", "in", "--output", "-")
    assert not CONTROL.search(out + err)
    assert Path(json.loads(out.splitlines()[0])["path"]).name == f"{''.join(EVIL)}.png", "JSON stays exact"
    assert f"p({trained[0]})" in json.loads(out.splitlines()[0])


@pytest.mark.parametrize("folder", ["in", "."])
def test_predictions_in_a_file(trained, cli, monkeypatch, workplace, folder):
    monkeypatch.chdir(workplace / folder)
    words = ("--ckpt_path", workplace / "best.ckpt", "--images", ".", "--output")
    assert cli("predict", *words, "out.csv")[0] == cli("predict", *words, "out.jsonl")[0] == 0
    text = Path("out.csv").read_text()
    assert not CONTROL.search(text)
    assert not re.search(r'(^|,|\n)"?[=+@]', text)
    exact = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    for row, other in zip(csv.DictReader(io.StringIO(text)), exact, strict=True):
        assert row["predicted"] == ("'=1+1" if other["predicted"] == "=1+1" else plain("".join(EVIL)))
        assert float(row["probability"]) == other["probability"]


def test_errors(trained, cli):
    name = f"in/{EVIL[2]}{EVIL[3]}.png"
    Path(name).write_bytes(b"nonsense")
    for words in (["--images", name], ["--images", f"{EVIL[0]}.png"], [f"--{EVIL[1]}", "--images", name]):
        code, out, err = cli("predict", "--ckpt_path", "best.ckpt", *words)
        assert code == 2
        assert err.count("\n") == 1
        assert not CONTROL.search(out + err)


def test_a_surrogate_in_the_name_of_a_class_costs_one_line(workplace, cli):
    hparams = {**CHECKPOINT["hyper_parameters"], "class_names": ["\ud83d", "b"]}
    torch.save({**CHECKPOINT, "hyper_parameters": hparams}, "best.ckpt")
    Image.effect_noise((40, 40), 90).save("a.png")
    for name in ("out.csv", "out.jsonl", "-"):
        code, _, err = cli("predict", "--ckpt_path", "best.ckpt", "--images", "a.png", "--output", name)
        assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("style", ["text", "csv"])
def test_compare(workplace, cli, style):
    for number, value in enumerate([*EVIL, "=cmd|' /C calc'!A0", "@SUM(1)"]):
        run = workplace / "logs" / f"version_{number}"
        run.mkdir(parents=True)
        (run / "name").write_text(value)
        content = {"seed_everything": -5, "trainer": {"max_epochs": 3}, "data": {"x": value, f"y{value}": -number}}
        (run / "config.yaml").write_text(json.dumps(content))
    code, out, err = cli("compare", "logs", "--format", style)
    assert (code, err) == (0, "")
    assert not CONTROL.search(out)
    if style == "csv":
        rows = [*csv.DictReader(io.StringIO(out))]
        assert {row["data.x"] for row in rows} >= {"'=cmd|' /C calc'!A0", "'@SUM(1)"}
        assert {row[plain(f"data.y{EVIL[1]}")] for row in rows} >= {"-1", ""}, "a number stays one"


def test_classes_of_own_pictures(workplace, cli):
    for name in (EVIL[0], EVIL[3]):
        (workplace / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.effect_noise((28 + number, 28), 90).save(workplace / "photos" / name / f"{number}.png")
        (workplace / "photos" / name / f"{EVIL[1]}.png").write_bytes(b"nonsense")
    words = ("--data.source=ImageFolder", "--data.source.folder=photos", "--data.val_size=2")
    for more, expected in ((["--data.source.skip_broken=true"], 0), ([], 2)):
        code, out, err = cli("prepare", *words, *more)
        assert code == expected
        assert not CONTROL.search(out + err)
        assert r"\u001b[2J.png" in err


def test_a_separator_inside_a_cell_ends_no_row(workplace, cli):
    for number in range(12):
        Image.effect_noise((28 + number, 28), 90).save(f"{number}.png")
    rows = [f"{number}.png,{'ab'[number % 2]}\u2028\x0b\x85c\r\n" for number in range(12)]
    Path("t.csv").write_text("".join(rows), newline="")
    words = ("--data.source=CSV", "--data.source.annotations_file=t.csv", "--data.source.img_dir=.")
    code, out, _ = cli("prepare", *words, "--data.val_size=2")
    assert code == 0
    assert r"a\u2028\u000b\u0085c" in out
    assert not CONTROL.search(out)


def test_tables_of_a_test():
    """Every line of the table of classes is printed by itself, so that a name cannot begin another."""
    row = {"name": "a\nacc 100.00%", "precision": 0.1, "recall": 0.1, "f1": 0.1, "support": 1}
    assert all("\n" not in plain(line) for line in class_table({"classes": [row]}))


@pytest.mark.parametrize("text", FRIENDLY)
def test_names_in_any_language_stay_as_they_are(text):
    assert plain(text) == table_cell(text) == text


@pytest.mark.parametrize("value", [-1, 2.5, None, True, "-1", "+2.5e-3", "-inf", "a=1", "", "'a"])
def test_cells_that_stay_as_they_are(value):
    assert table_cell(value) is value or table_cell(value) == value


@pytest.mark.parametrize("value", ["=1+1", "+a", "-a", "@a", "＝1+1", "\t=1", "\r=1", "-1+1"])  # noqa: RUF001
def test_cells_that_would_be_formulas(value, tmp_path):
    write_rows([{value: value}], tmp_path / "t.csv")
    rows = [*csv.reader(io.StringIO((tmp_path / "t.csv").read_text("utf-8-sig")))]
    assert rows == [[table_cell(value)]] * 2
    assert rows[0][0].startswith(("'", "\\u"))


@pytest.mark.parametrize("long", [True, False])
def test_columns_of_a_test_are_straight_with_names_of_any_script(long):
    figures = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 1000}
    names = ["0", "连衣", "コート", "T-shirt/top"][: 4 if long else 2]
    lines = class_table({"classes": [{"name": name, **figures} for name in names]})
    ends = [len(line) + sum(ord(letter) > 0x2E80 for letter in line) for line in lines]
    assert len({*ends}) == 1


PERCENT_APART = re.compile(r"[\d}*`] %(?![}\d]| \d)")


def test_percent_follows_its_number_without_a_space():
    """In the text, the templates and the messages, in either language."""
    folders = [ROOT / name for name in ("fmnist", "configs", "docs", "examples", "benchmarks")]
    pages = [*ROOT.glob("*.md"), *(path for folder in folders for path in sorted(folder.rglob("*")))]
    pages = [path for path in pages if path.suffix in (".md", ".ipynb", ".py", ".j2", ".yaml")]
    found = [
        f"{path}:{number}"
        for path in pages
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PERCENT_APART.search(line)
    ]
    assert len(pages) > 100
    assert found == []
