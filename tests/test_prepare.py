import matplotlib
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from fmnist.cli.prepare import count_duplicates
from fmnist.plots import draw_samples


def test_describes_the_data_and_draws_it(workplace, cli):
    code, out, err = cli("prepare", "--data.val_size", 100, "--show", "samples.png")
    assert (code, err) == (0, "")
    for part in ("500 images  uint8 (500, 1, 28, 28)", "9 Ankle boot", "digest of the split", "0 across the two"):
        assert part in out
    with Image.open(workplace / "samples.png") as picture:
        assert picture.width > 700 < picture.height


def make_font(path, letters):
    """Writes a font in which every letter is a solid block."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 700), (900, 700), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Blocks", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def few_fonts(monkeypatch):
    """Leaves the fonts that matplotlib brings along, whatever this machine has."""
    own = [font for font in fontManager.ttflist if font.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", own)


def test_letters_that_no_font_has_are_named(workplace, cli, few_fonts):
    classes = '{"Bag": "$包$", "Coat": "外套"}'
    code, out, err = cli("prepare", "--data.val_size", 100, "--data.class_map", classes, "--show", "samples.png")
    assert (code, err) == (0, "")
    assert "notice: no font of this machine has 包外套: install one that does" in out


def test_names_are_drawn_with_a_font_that_has_their_letters(tmp_path, few_fonts):
    images, labels = torch.full((24, 1, 28, 28), 255, dtype=torch.uint8), torch.arange(24) % 2
    make_font(tmp_path / "blocks.ttf", "裤子")
    dark = []
    for missing in ("子裤", ""):
        assert draw_samples(images, labels, ["裤子", "Coat"], tmp_path / "samples.png") == missing
        with Image.open(tmp_path / "samples.png") as picture:
            name = picture.convert("L").crop((0, 0, picture.width // 8, picture.height // 2))
        dark.append(sum(name.histogram()[:64]))
        fontManager.addfont(tmp_path / "blocks.ttf")
    assert dark[1] > 2 * dark[0], "two solid blocks, not the outlines of two boxes"


def test_samples_are_light_on_black(tmp_path):
    images, labels = torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.tensor([0])
    draw_samples(images, labels, ["a"], tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.convert("L").getpixel((picture.width - 20, picture.height // 2)) == 0


def test_digest_follows_the_split(workplace, cli):
    digests = [
        cli("prepare", "--data.val_size", 100, "--data.split_seed", seed)[1].split("split: ")[1][:16]
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_counts_duplicates():
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 28, 28)
    train = torch.cat([images, images[:2]])
    test = torch.cat([images[3:], images[4:], images[:1] + 100])
    assert count_duplicates(train, test) == (2, 1, 3)
    assert count_duplicates(images, images[:0]) == (0, 0, 0)


def test_accepts_a_whole_configuration(workplace, cli):
    assert cli("fit", "--data.val_size", 100, "--trainer.max_epochs", 1)[0] == 0
    code, out, _ = cli("prepare", "--config", "lightning_logs/version_0/config.yaml")
    assert code == 0
    assert "validation      100 images" in out
