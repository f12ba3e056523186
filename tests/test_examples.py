"""The files in ``examples/``, and what ``docs/extend.md`` says of them."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import nn
from torchvision.transforms import v2

from fmnist import FashionMNIST, FashionMNISTDataModule, ImageClassifier, UserError, load
from fmnist.model.network import build_network
from fmnist.runs.tables import read_history
from tests.conftest import ROOT, spawn

RUN = Path("lightning_logs/version_0")
NAMED = ("--model.network", "examples.convnet.ConvNet", "--model.network.width", 4)


@pytest.fixture
def examples(workplace, monkeypatch):
    """The example files beside the data."""
    shutil.copytree(ROOT / "examples", workplace / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(workplace)
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)
    return workplace


def run(cli, *words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    return out


def test_the_convolutional_network_does_what_the_mlp_does(examples, cli):
    words = ("--config", ROOT / "configs/convnet.yaml", "--data.val_size", 100, "--data.batch_size", 50)
    out = run(cli, "fit", *words, *NAMED, "--trainer.max_epochs", 2)
    assert "network: ConvNet, " in out
    assert "100 images" not in run(cli, "test", *NAMED[:2])
    page = (RUN / "test/report.html").read_text(encoding="utf-8")
    assert len(page.split("Conv2d")) > 3, "the report shows its layers"
    assert "model.hidden_dims" not in page, "and no settings of the MLP"
    run(cli, "predict", *NAMED[:2], "--output", "out.csv")
    assert "same class for 100.00%" in run(cli, "export", *NAMED[:2], "--output", "own.onnx")
    assert "finished" in run(cli, "compare", "--format", "csv")
    from examples.convnet import ConvNet

    assert load("version_0", network=ConvNet).classify(torch.zeros(28, 28, dtype=torch.uint8)).name


@pytest.mark.signals
def test_it_is_continued_bit_for_bit_after_a_kill(examples, cli, small_contents):
    """Without PYTHONPATH or an import beforehand, by the console script: the current folder is searched."""
    script = Path(sys.executable).with_name("fmnist")
    named = ["--data.source", "examples.npz.Arrays", *NAMED[:2]]
    save_arrays(small_contents)
    words = ["--data.source.train", "all.npz", *NAMED[2:], "--data.val_size", 100, "--trainer.logger", "false"]
    words = [*named, *words, "--data.shift", 1, "--trainer.max_epochs"]
    command = [str(script), "fit", *map(str, words), "1000"]  # which it does not reach, however late it is killed
    options = {"cwd": examples, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **options) as process:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL, "".join(seen)
    more = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)["epoch"] + 5
    run(cli, "fit", *words, more)
    run(cli, "fit", "--ckpt_path", "version_0", "--trainer.max_epochs", more)
    killed, whole = (torch.load(f"lightning_logs/version_{n}/checkpoints/last.ckpt", weights_only=True) for n in (0, 1))
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(killed["state_dict"][name], tensor), name


def test_flags_of_the_mlp_beside_a_network(examples, cli):
    code, _, err = cli("fit", *NAMED, "--model.hidden_dims", "[8]")
    assert (code, err.count("\n")) == (2, 1)
    assert "--model.hidden_dims is a setting of the MLP, not of examples.convnet.ConvNet" in err
    little = ("--data.val_size", 100, "--trainer.max_epochs", 1)
    out = run(cli, "fit", "--config", ROOT / "configs/mlp-small.yaml", *NAMED, *little)
    for name in ("hidden_dims", "normalization"):
        assert f"note: model.{name} is a setting of the MLP, not of examples.convnet.ConvNet, and is not used" in out
    assert "112" not in (RUN / "config.yaml").read_text(), "they are not kept"
    assert "of the MLP" not in run(cli, "fit", "--config", RUN / "config.yaml", "--trainer.max_epochs", 1)
    kept = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert kept["optimizer"]["init_args"]["weight_decay"] == 5e-4, "what is not of the MLP holds"


def test_two_images_change_nothing_in_a_network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(0.5), nn.Linear(784, 3))
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.random.get_rng_state()
    whole = build_network({"class_names": ["a", "b", "c"], "mean": 0.0, "std": 1.0}, lambda num_classes: module)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [layer.training for layer in whole[1]] == [True, False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def save_arrays(contents):
    """Writes the small data set as Keras has it. Returns images and labels of each part."""
    raw = {name: np.frombuffer(data, np.uint8) for name, data in contents.items()}
    images = {part: raw[f"{part}-images-idx3-ubyte"][16:].reshape(-1, 28, 28) for part in ("train", "t10k")}
    labels = {part: raw[f"{part}-labels-idx1-ubyte"][8:] for part in ("train", "t10k")}
    named = {f"x_{name}": images[part] for name, part in (("train", "train"), ("test", "t10k"))}
    np.savez("all.npz", **named, y_train=labels["train"], y_test=labels["t10k"])
    return images, labels


@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_arrays_of_keras_and_tables_of_kaggle(examples, cli, small_contents, ending):
    images, labels = save_arrays(small_contents)
    if ending == "npz":
        words = ["--data.source.train", "all.npz"]
    else:
        for part in images:
            table = np.column_stack([labels[part], images[part].reshape(-1, 784)])
            head = ",".join(["label", *(f"pixel{number}" for number in range(1, 785))])
            np.savetxt(f"{part}.csv", table, fmt="%d", delimiter=",", header=head, comments="")
        words = ["--data.source.train", "train.csv", "--data.source.test", "t10k.csv"]
    source = ("--data.source", "examples.npz.Arrays", *words)
    same = ("--data.val_size", 100, "--model.hidden_dims", "[8]", "--trainer.max_epochs", 1)
    run(cli, "fit", *source, *same, "--model.mean", FashionMNIST.pixels[0], "--model.std", FashionMNIST.pixels[1])
    run(cli, "fit", *same)
    tables = [Path(f"lightning_logs/version_{number}/metrics.csv").read_text() for number in (0, 1)]
    assert tables[0] == tables[1], "the same images in the same order"
    assert "200 images" in run(cli, "test", "--ckpt_path", "version_0", *source)
    code, _, err = cli("fit", "--data.source", "examples.npz.Arrays", "--data.source.train", "none.npz")
    assert (code, "none.npz: there is no such file" in err) == (2, True)


def test_a_metric_of_ones_own_is_in_the_table(examples, cli):
    callback = ("--trainer.callbacks+=examples.callback.WorstClass",)
    run(cli, "fit", *callback, "--data.val_size", 100, "--model.hidden_dims", "[8]", "--trainer.max_epochs", 3)
    rows = read_history(RUN)
    assert all(0 <= row["val/worst_class_acc"] <= row["val/acc"] for row in rows)
    run(cli, "fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert len(read_history(RUN)) == 4
    assert "200 images" in run(cli, "test"), "a test needs no callback"


def test_a_training_begins_with_the_weights_of_another(examples, cli):
    little = ("--data.val_size", 100, "--model.hidden_dims", "[16]", "--trainer.max_epochs", 1)
    run(cli, "fit", *little, "--name", "base")
    first = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    out = run(cli, "fit", *little, "--model.weights", "base", "--model.optimizer.lr", 0)
    assert "weights: lightning_logs/version_0/checkpoints/best.ckpt (epoch 1)\n" in out
    again = torch.load("lightning_logs/version_1/checkpoints/best.ckpt", weights_only=True)
    assert all(torch.equal(again["state_dict"][n], w) for n, w in first.items() if n.startswith("network"))
    assert again["epoch"] == 0
    names = '{"Sandal": "Shoe", "Sneaker": "Shoe", "Ankle boot": "Shoe"}'
    words = (*little, "--data.class_map", names, "--model.weights", "base", "--model.optimizer.lr", 0)
    assert "the head is new, for 8 classes" in run(cli, "fit", *words)
    state = torch.load("lightning_logs/version_2/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["network.1.weight"], first["network.1.weight"])
    assert state["network.3.weight"].shape == (8, 16)
    (RUN / "checkpoints/best.ckpt").unlink()
    run(cli, "fit", "--ckpt_path", "version_1", "--trainer.max_epochs", 2)
    run(cli, "test", "--ckpt_path", "version_1")
    code, _, err = cli("fit", "--model.weights", "version_1", "--model.hidden_dims", "[8]", *little[:2])
    assert (code, err.count("\n")) == (2, 1)
    assert "is of another network: give this run the settings of that one, --model.hidden_dims [16]" in err
    Path("bad.ckpt").write_text("text")
    for spec, reason in (("nope", "there is no such file"), ("bad.ckpt", "is not a checkpoint of fmnist")):
        code, _, err = cli("fit", "--model.weights", spec, *little)
        assert (code, err.count("\n")) == (2, 1)
        assert reason in err
        assert "--model.weights" in err
        assert "--ckpt_path" not in err


def test_what_the_page_says_works(workplace):
    page = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    _, erasing, focal = re.findall(r"```python\n(.*?)```", page, re.DOTALL)  # the first: test_readme.py
    names = {"Callback": Callback, "ImageClassifier": ImageClassifier, "F": F, "torch": torch, "v2": v2}
    exec(erasing + focal, names)
    names["Erasing"].change = v2.Lambda(lambda image: image * 0)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, callbacks=[names["Erasing"]()], **options)
    trainer.fit(names["Focal"](hidden_dims=[8]), FashionMNISTDataModule(val_size=100))
    assert trainer.callback_metrics["train/acc"] < 0.2, "everything was erased"


def test_a_stranger_s_network_is_not_run(examples, cli):
    words = ("--data.val_size", 100, "--trainer.max_epochs", 1)
    run(cli, "fit", *NAMED, *words)
    checkpoint = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["network"] = {"class_path": "torchvision.models.resnet18", "init_args": {}}
    torch.save(checkpoint, "strange.ckpt")
    done = spawn("export", "--ckpt_path", "strange.ckpt", "--output", "x.onnx", cwd=examples)
    assert done.returncode == 2
    assert "was trained with torchvision.models.resnet18; if you trust that code, name it yourself" in done.stderr
    with pytest.raises(UserError, match=r"torchvision\.models\.resnet18"):
        load("strange.ckpt")


def test_logistic_regression_finds_the_line(examples, capsys):
    from examples.logistic_regression import main, make_points

    model = main("line.png")
    assert re.search(r"^(99\.\d|100\.0)% after \d+ steps; the line: line.png$", capsys.readouterr().out, re.MULTILINE)
    assert Path("line.png").read_bytes().startswith(b"\x89PNG")
    torch.manual_seed(1)
    points, labels = make_points(1000)
    assert ((model(points) > 0) == labels.bool()).float().mean() > 0.98, "and it holds for other points"
    assert [*model.lines][:3] == [0, 20, 40]


def test_the_textbook_module_trains_on_the_same_data(examples):
    from examples.textbook import Textbook

    data = FashionMNISTDataModule(val_size=0.1)
    trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model = Textbook()
    data.prepare_data()
    data.setup("fit")
    images, labels = data.train_set.images, data.train_set.labels
    before = F.cross_entropy(model(images), labels)
    trainer.fit(model, data)
    assert F.cross_entropy(model(images), labels) < before
    assert sum(parameter.numel() for parameter in model.parameters()) == 669_706
    assert {"train/loss", "val/acc"} <= trainer.callback_metrics.keys()
