"""Pictures in colour and of any size, from the file to every way out; and that colour is what makes the difference."""

import base64
import csv
import json
import socket
import threading
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from fmnist import ConvNet, FashionMNISTDataModule, ImageClassifier, ImageFolder, UserError, load
from fmnist.data.images import Rows
from tests.conftest import ROOT

RUN = Path("lightning_logs/version_0")
COLOR = ("--data.source=ImageFolder", "--data.source.folder=photos", "--data.source.color=true")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMNIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(workplace):
    """Crops of two photographs, a temple and a flower, of several sizes; the current folder."""
    random = np.random.default_rng(0)
    (library,) = find_spec("sklearn").submodule_search_locations  # which is not imported: it takes seconds
    for name, file in (("temple", "china.jpg"), ("flower", "flower.jpg")):
        photo = np.asarray(Image.open(Path(library, "datasets/images", file)))
        Path("photos", name).mkdir(parents=True)
        for number in range(60):
            height, width = random.integers(40, 90, 2)
            top, left = random.integers(0, (photo.shape[0] - height, photo.shape[1] - width))
            crop = Image.fromarray(photo[top : top + height, left : left + width])
            crop.save(Path("photos", name, f"{number}.{'png' if number % 2 else 'jpg'}"))
    return workplace


def run(cli, *words):
    code, out, err = cli(*words)
    assert (code, err) == (0, ""), err
    return out


def test_photographs_go_through_every_command(photos, cli):
    words = (
        *COLOR,
        "--data.source.image_size=[24,32]",
        "--data.val_size=0.2",
        "--data.batch_size=20",
        "--data.flip=true",
    )
    network = ("--model.network=fmnist.ConvNet", "--model.network.width=4", "--model.optimizer.lr=0.05")
    run(cli, "fit", *words, *network, "--trainer.max_epochs=12")
    run(cli, "fit", *words, *network, "--trainer.max_epochs=6")
    run(cli, "fit", "--ckpt_path=last", "--trainer.max_epochs=12")
    runs = [Path("lightning_logs", f"version_{number}/checkpoints/last.ckpt") for number in (0, 1)]
    whole, continued = (torch.load(path, weights_only=True) for path in runs)
    assert all(torch.equal(continued["state_dict"][name], value) for name, value in whole["state_dict"].items())
    settings = whole["hyper_parameters"]
    assert settings["image_shape"] == [3, 24, 32]
    assert len(settings["mean"]) == len({*settings["mean"]}) == len(settings["std"]) == 3
    run(cli, "test", "--ckpt_path", "version_0")  # the network of the package need not be named
    metrics = json.loads((RUN / "test/metrics.json").read_text())
    assert metrics["acc"] > 0.75
    assert "3, 24, 32" in (RUN / "test/report.html").read_text(encoding="utf-8")
    pictures = ("--images", "photos/flower/1.png", "photos/flower/3.png")
    run(
        cli, "predict", "--ckpt_path=version_0", *pictures, "--output=out.csv", "--explain=why", "--save_converted=seen"
    )
    with Path("out.csv").open() as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == ["flower", "flower"]
    with Image.open("seen/1.png") as seen, Image.open("why/1.png") as why:
        assert (seen.mode, seen.size, why.size) == ("RGB", (32, 24), (65 * 9, 24 * 9))
    assert "same class for 100.00%" in run(cli, "export", "--ckpt_path=version_0", "--output=photos.onnx")
    run(cli, "export", "--ckpt_path=version_0", "--output=photos.safetensors")
    code, _, err = cli("export", "--ckpt_path=version_0", "--output=photos.html")
    assert (code, err.count("\n"), "the page cannot compute Sequential" in err) == (2, 1, True)
    predictors = [load("version_0"), load("photos.safetensors"), load("lightning_logs")]
    assert {predictor.image_shape for predictor in predictors} == {(3, 24, 32)}
    assert [*{predictor.classify("photos/flower/1.png").name for predictor in predictors}] == ["flower"]
    image = predictors[0].convert("photos/temple/0.jpg").image
    assert predictors[0].classify(image).probabilities == predictors[1].classify(image.numpy()).probabilities
    with pytest.raises(
        ValueError, match=r"cannot have the shape \(28, 28\).* of shape \(3, 24, 32\) or \(N, 3, 24, 32\)"
    ):
        predictors[0].classify(np.zeros((28, 28), np.uint8))
    code, _, err = cli("test", "--ckpt_path=version_0", "--data.source.image_size=28")
    assert (code, "the model takes images of 3 x 24 x 32; the data has 3 x 28 x 28" in err) == (2, True)
    code, _, err = cli("fit", "--config=lightning_logs/version_0/config.yaml", "--model.image_shape=[1,28,28]")
    assert (code, "model.image_shape is that of the data" in err) == (2, True)


def test_the_server_answers_in_colour_and_audit_looks_at_both_folds(photos, cli):
    from fmnist.inference.server import make_server

    words = (*COLOR, "--data.source.image_size=16", "--data.source.test_size=0", "--data.source.conversion=crop")
    for fold in ("1/2", "2/2"):
        run(cli, "fit", *words, "--data.fold", fold, "--model.hidden_dims=[8]", "--trainer.max_epochs=1")
    out = run(cli, "audit", "lightning_logs")
    assert "over 2 folds, 120 images" in out
    assert Path("lightning_logs/labels.html").read_text().count("data:image/png") == 100, "the first of them"
    server, listener = make_server(load("version_0"), "here"), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=[[listener]])
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    picture = Path("photos/flower/0.jpg").read_bytes()
    with urllib.request.urlopen(f"{url}/predict?seen=1", picture, timeout=30) as answer:
        found = json.load(answer)
    with urllib.request.urlopen(url, timeout=30) as page:
        assert b'"shape": [3, 16, 16]' in page.read()
    server.should_exit = True
    thread.join()
    assert len(found["predictions"]) == 2
    assert base64.b64decode(found["seen"]) == load("version_0").convert(picture).image.numpy().tobytes()


def test_only_colour_tells_red_from_blue(workplace, cli):
    random = np.random.default_rng(0)
    for number in range(300):
        pixels = np.zeros((32, 32, 3), np.uint8)
        top, left = random.integers(0, 20, 2)
        pixels[top : top + 10, left : left + 10, 2 * (number % 2)] = random.integers(100, 256)
        path = Path("photos", "blue" if number % 2 else "red", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    words = ("--data.val_size=0.2", "--data.source.test_size=0.4", "--model.hidden_dims=[16]", "--trainer.max_epochs=8")
    words += ("--data.batch_size=16", "--model.optimizer.lr=0.02")
    found = {}
    for number, color in enumerate(("true", "false")):
        run(cli, "fit", *COLOR[:2], f"--data.source.color={color}", "--data.source.image_size=20", *words)
        run(cli, "test", "--ckpt_path", f"version_{number}")
        metrics = Path("lightning_logs", f"version_{number}", "test/metrics.json").read_text()
        found[color] = json.loads(metrics)["acc"]
    assert found["true"] > 0.95
    assert 0.3 < found["false"] < 0.7
    with pytest.raises(UserError, match=r"its images are 1 x 20 x 20, not 3 x 20 x 20; leave one of them out"):
        load(["version_0", "version_1"])


def test_pictures_stay_on_disk_and_are_copied_batch_by_batch(photos, cache, monkeypatch):
    source = ImageFolder("photos", image_size=32, color=True)
    data = FashionMNISTDataModule(source, val_size=0.2, batch_size=10)
    data.prepare_data()
    data.setup()
    (file,) = cache.iterdir()
    assert file.suffix == ".npy"
    parts = [data.train_set.images, data.val_set.images, data.test_set.images]
    assert {type(part) for part in parts} == {Rows}
    assert sum(map(len, parts)) == 120
    assert np.load(file, mmap_mode="r").shape == (120, 3, 32, 32)
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, len(labels)) == ((10, 3, 32, 32), torch.uint8, 10)
    shortage = type("Usage", (), {"free": 400_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shortage)
    with pytest.raises(UserError, match=r"120 images take 0\.0 GB in .*FMNIST_CACHE"):
        ImageFolder("photos", image_size=33, color=True).prepare()
    assert [*cache.iterdir()] == [file], "nothing was written"


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"image_size is \[2000, 28\]: give 1 to 1024, or \[height, width\]"):
        ImageFolder("photos", image_size=[2000, 28])
    with pytest.raises(UserError, match=r"the conversion distance makes grey images"):
        ImageFolder("photos", color=True, conversion="distance")
    with pytest.raises(UserError, match=r"model\.network ConvNet cannot take normalized images, float \(2, 1, 3, 3\)"):
        ImageClassifier(network=ConvNet, image_shape=(1, 3, 3))
    with pytest.raises(UserError, match=r"model\.mean is \[0\.1, 0\.2\]: give one number, or 3 for 3 x 8 x 8 images"):
        ImageClassifier(mean=[0.1, 0.2], image_shape=(3, 8, 8))
    with pytest.raises(UserError, match=r"model\.image_shape is \[3, 0, 8\]"):
        ImageClassifier(image_shape=(3, 0, 8))


def test_the_network_follows_the_shape():
    assert ImageClassifier(hidden_dims=[4], image_shape=(3, 8, 10)).network[2].weight.shape == (4, 240)
    network = ImageClassifier(network=ConvNet, image_shape=(3, 40, 30), mean=[0.1, 0.2, 0.3], std=0.5).network
    assert network[1][0].weight.shape == (24, 3, 3, 3)
    images = torch.randint(0, 256, (2, 3, 40, 30), dtype=torch.uint8)
    expected = (images / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    torch.testing.assert_close(network[0](images), expected)
    torch.testing.assert_close(network[0](images / 255), expected)


def test_a_pretrained_network_is_frozen_then_learns_and_is_loaded_without_its_file(photos, cli):
    from examples.pretrained import Backbone

    torch.manual_seed(0)
    weights = torchvision.models.mobilenet_v3_small(num_classes=3).state_dict()
    torch.save(weights, "seen.pth")
    words = (
        "--model.network.name=mobilenet_v3_small",
        "--model.network.weights=seen.pth",
        "--data.source.image_size=32",
    )
    config = ("--config", ROOT / "configs/pretrained.yaml")
    run(cli, "fit", *config, *words, "--model.network.frozen_epochs=1", "--trainer.max_epochs=1")
    name = "network.1.backbone.features.0.{}"
    first = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(first[name.format("0.weight")], weights["features.0.0.weight"])
    assert torch.equal(first[name.format("1.running_mean")], weights["features.0.1.running_mean"]), "frozen as well"
    assert not torch.equal(first["network.1.head.weight"], weights["classifier.3.weight"][:2])
    Path("seen.pth").unlink()
    run(cli, "fit", "--ckpt_path=last", "--trainer.max_epochs=2")
    last = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(last[name.format("0.weight")], weights["features.0.0.weight"])
    assert load("version_0", network=Backbone).classify("photos/flower/1.png").name
    run(cli, "fit", *config, *words, "--model.weights=version_0", "--trainer.max_epochs=1")
