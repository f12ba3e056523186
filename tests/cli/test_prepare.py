import torch
from PIL import Image

from fmnist.cli.prepare import count_duplicates
from fmnist.data.split import digest_images
from fmnist.plots import draw_samples


def test_describes_the_data_and_draws_it(workplace, cli):
    code, out, err = cli("prepare", "--data.val_size", 100, "--show", "samples.png")
    assert (code, err) == (0, "")
    for part in ("500 images  uint8 (500, 1, 28, 28)", "9 Ankle boot", "digest of the split", "0 across the two"):
        assert part in out
    with Image.open(workplace / "samples.png") as picture:
        assert picture.width > 700 < picture.height


def test_classes_of_the_model_are_not_built(workplace, cli):
    (workplace / "loud.py").write_text("class Net:\n    def __init__(self):\n        open('built', 'w').close()\n")
    (workplace / "net.yaml").write_text("model: {network: {class_path: loud.Net}}\n")
    assert cli("prepare", "--config", "net.yaml", "--data.val_size", 100)[::2] == (0, "")
    assert not (workplace / "built").exists()


def test_letters_that_no_font_has_are_said(workplace, cli, monkeypatch):
    monkeypatch.setattr("fmnist.plots.FONTS", ["DejaVu Sans"])  # whatever this machine has
    classes = '{"Bag": "$包$", "Coat": "外套"}'
    code, out, err = cli("prepare", "--data.val_size", 100, "--data.class_map", classes, "--show", "samples.png")
    assert (code, err) == (0, "")
    assert "note: this machine has no font for some letters of the names" in out


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
    train = digest_images(torch.cat([images, images[:2]]))
    test = digest_images(torch.cat([images[3:], images[4:], images[:1] + 100]))
    assert count_duplicates(train, test) == (2, 1, 3)
    assert count_duplicates(digest_images(images), digest_images(images[:0])) == (0, 0, 0)


def test_accepts_a_whole_configuration(workplace, cli):
    assert cli("fit", "--data.val_size", 100, "--trainer.max_epochs", 1)[0] == 0
    code, out, _ = cli("prepare", "--config", "lightning_logs/version_0/config.yaml")
    assert code == 0
    assert "validation      100 images" in out
