"""What people plug in without editing the package: a network, a source, a function."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fmnist import ImageClassifier, UserError, load
from fmnist.cli.resolve import Given, Option, Start
from fmnist.model.network import describe_network
from fmnist.names import import_code

RUN = Path("lightning_logs/version_0")
CODE = '''
from collections.abc import Callable
import numpy as np
import torch
from torch import nn
from fmnist.data.sources.source import Source


class ConvNet(nn.Sequential):
    """A small convolutional network."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        layers = [nn.Conv2d(1, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Flatten()]
        super().__init__(*layers, nn.Linear(49 * width, num_classes))


def linear(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))


class Stubborn(ConvNet):
    """Looks at its own weights when it is built, so it cannot be sketched without memory."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        assert self[0].weight.sum().item() != 12345


class Npz(Source):
    """Images and labels in one file of numpy."""

    class_names = ["low", "high"]

    def __init__(self, archive: str) -> None:
        self.archive = archive

    def prepare(self) -> None:
        pass

    def load(self, train: bool):
        with np.load(self.archive) as saved:
            part = slice(None, None, 2) if train else slice(1, None, 2)
            return torch.from_numpy(saved["images"][part]), torch.from_numpy(saved["labels"][part])


class Made(Npz):
    """Takes a function, and a setting without a type."""

    def __init__(self, archive: str, change: Callable[[str], str], offset=0) -> None:
        super().__init__(archive)
        assert change("x") == "x"
        self.offset = offset


def same(text: str) -> str:
    return text


class Darker:
    def __call__(self, picture):
        return darker(picture)


def darker(picture):
    return picture.point(lambda value: value // 2)
'''


@pytest.fixture
def own_code(workplace, monkeypatch):
    """A module of the user's own beside the data. Returns the folder."""
    (workplace / "mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    random = np.random.default_rng(0)
    labels = np.arange(200) // 2 % 2  # a pair of each, one for either part
    images = random.integers(0, 100, (200, 1, 28, 28)) + 100 * labels[:, None, None, None]
    np.savez(workplace / "digits.npz", images=images.astype(np.uint8), labels=labels)
    return workplace


def run(cli, *words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("network", ["ConvNet", "Stubborn", "linear"])
def test_a_network_goes_through_every_verb(own_code, cli, network):
    named = ("--model.network", f"mine.{network}")
    settings = ("--data.val_size", 100, "--data.batch_size", 32, "--trainer.logger", "false")
    run(cli, "fit", *named, *settings, "--trainer.max_epochs", 4)
    best, last = RUN / "checkpoints/best.ckpt", RUN / "checkpoints/last.ckpt"
    out = run(cli, "test", *named)
    assert f"accuracy {100 * json.loads((RUN / 'test/metrics.json').read_text())['acc']:.2f}%" in out
    run(cli, "predict", *named, "--output", "out.csv")
    assert len(Path("out.csv").read_text().splitlines()) == 201
    assert "same class for 100.00%" in run(cli, "export", *named, "--output", "own.onnx")
    from mine import ConvNet, Stubborn, linear

    made = {"ConvNet": ConvNet, "Stubborn": Stubborn, "linear": linear}[network]
    assert load(best, network=made).classify(torch.zeros(28, 28, dtype=torch.uint8)).name
    whole = torch.load(last, weights_only=True)
    run(cli, "fit", *named, *settings, "--trainer.max_epochs", 2)
    run(cli, "fit", "--ckpt_path", "last", *named, "--trainer.max_epochs", 4)
    again = torch.load(Path("lightning_logs/version_1/checkpoints/last.ckpt"), weights_only=True)
    assert all(torch.equal(again["state_dict"][name], value) for name, value in whole["state_dict"].items())


def test_settings_of_a_network_are_kept(own_code, cli):
    words = ("--model.network", "mine.ConvNet", "--model.network.width", 6)
    run(cli, "fit", *words, "--data.val_size", 100, "--trainer.max_epochs", 1)
    checkpoint = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["network"] == {"class_path": "mine.ConvNet", "init_args": {"width": 6}}
    assert "note:" not in run(cli, "test", "--model.network", "mine.ConvNet")


@pytest.mark.parametrize("verb", ["test", "predict", "export"])
def test_a_network_that_is_not_named_is_not_imported(own_code, cli, verb):
    run(cli, "fit", "--model.network", "mine.ConvNet", "--data.val_size", 100, "--trainer.max_epochs", 1)
    (own_code / "mine.py").write_text("raise SystemExit('imported')")
    output = {"predict": ["--output", "x.csv"], "export": ["--output", "x.onnx"]}
    code, out, err = cli(verb, *output.get(verb, []))
    assert (code, out) == (2, "")
    assert "was trained with mine.ConvNet; if you trust that code, name it yourself: fmnist " in err
    assert "--model.network mine.ConvNet" in err
    assert len(err.splitlines()) == 1
    with pytest.raises(UserError, match=r"was trained with mine\.ConvNet"):
        load(RUN / "checkpoints/best.ckpt")


def test_a_source_with_a_file_name_goes_through_every_verb(own_code, cli):
    words = ("--data.source", "mine.Npz", "--data.source.archive", "digits.npz", "--data.val_size", 20)
    run(cli, "fit", *words, "--model.hidden_dims", "[8]", "--trainer.max_epochs", 2)
    code, _, err = cli("test")
    assert code == 2
    assert "was trained with mine.Npz; if" in err, "the file's name is text"
    assert "100 images" in run(cli, "test", *err.split(" fmnist test ")[1].split())
    run(cli, "predict", *words[:2], "--output", "out.csv")
    run(cli, "export", "--output", "own.onnx")
    run(cli, "fit", "--ckpt_path", "last", "--trainer.max_epochs", 3)


def test_what_a_source_was_given_is_named_again(own_code, cli):
    words = ("--data.source", "mine.Made", "--data.source.archive", "digits.npz", "--data.source.change", "mine.same")
    words += ("--data.source.offset", 3, "--data.val_size", 20, "--model.hidden_dims", "[8]", "--trainer.max_epochs", 1)
    run(cli, "fit", *words)
    code, _, err = cli("test")
    assert (code, err.count("\n")) == (2, 1)
    named = err.split(" fmnist test ")[1].split()
    assert named == ["--data.source", "mine.Made", "--data.source.change", "mine.same"]
    code, _, err = cli("test", *named)
    assert (code, "have no plain type: give --data.source.offset" in err) == (2, True)
    assert "100 images" in run(cli, "test", *named, "--data.source.offset", 3)


def test_a_transform_may_be_a_class(own_code):
    start = Start("predict", Given([], [], [Option("transform", "mine.Darker", True)]))
    from PIL import Image

    assert start.transform(Image.new("L", (1, 1), 80)).getpixel((0, 0)) == 40


def test_a_function_is_named_again(own_code, cli, tmp_path):
    from PIL import Image

    rows = []
    for number in range(20):
        Image.new("L", (28, 28), 50 + 100 * (number % 2) + number).save(own_code / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]}")
    (own_code / "table.csv").write_text("\n".join(rows))
    source = ("--data.source=CSV", "--data.source.annotations_file=table.csv", "--data.source.img_dir=.")
    words = (*source, "--data.source.transform=mine.darker", "--data.val_size=4", "--model.hidden_dims=[8]")
    run(cli, "fit", *words, "--trainer.max_epochs=1")
    code, _, err = cli("test")
    assert code == 2
    assert "--data.source.transform mine.darker" in err
    assert " images" in run(cli, "test", *err.split(" fmnist test ")[1].split())
    code, _, err = cli("predict", "--images", "1.png")
    assert code == 2
    assert "in training each picture went through the transform mine.darker" in err
    given = run(cli, "predict", "--images", "1.png", "--transform", "mine.darker")
    assert given == run(cli, "predict", "--images", "1.png", "--config", RUN / "config.yaml")
    code, _, err = cli("serve", "--port", "99999", "--transform", "mine.darker")
    assert "give a number from 0 to 65535" in err, "serve takes it, too"


def test_networks_are_written_down_as_plain_values(own_code):
    from functools import partial

    from mine import ConvNet, linear

    assert describe_network(ConvNet) == {"class_path": "mine.ConvNet", "init_args": {}}
    assert describe_network(partial(ConvNet, width=3)) == {"class_path": "mine.ConvNet", "init_args": {"width": 3}}
    assert describe_network(linear) == "mine.linear"
    assert import_code("mine.linear") is linear
    for factory in (lambda num_classes: None, partial(ConvNet, width=torch.ones(1))):
        with pytest.raises(UserError, match=r"model\.network: .*(has no name|no plain values)"):
            ImageClassifier(network=factory)
    with pytest.raises(UserError, match=r"mine\.Nope cannot be imported"):
        import_code("mine.Nope")
