"""What users get wrong, a case of each kind: a short message, exit code 2, and nothing is left behind."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fmnist import ImageClassifier
from fmnist.__main__ import main

FILES = {
    "broken.yaml": "model: [",
    "typo.yaml": "model: {hiden_dims: [3]}",
    "type.yaml": "data: {batch_size: many}",
    "text.yaml": "just some text",
    "source.yaml": "data: {source: {class_path: fmnist.FashionMNIST, init_args: {rot: data}}}",
    "ckpt.yaml": "ckpt_path: last",
    "twice.yaml": "model: {dropout: 0.1}\ndata: {val_size: 9}\nmodel: {normalization: batch}",
    "trails.yaml": "{config: mlp.yaml, trails: 3}",
    "text.ckpt": "hello",
    "mynet.py": """
import torch
from torch import nn

class Wrong(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 7))

class Nameless(nn.Sequential):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, classes))

class Untyped(nn.Sequential):
    def __init__(self, num_classes: int, width) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, num_classes, width))

""",
}


class Evil:
    def __reduce__(self):
        return exec, ("open('executed', 'w').close()",)


def fill():
    """Makes files with which something is wrong, beside a good run and its data."""
    for name, content in FILES.items():
        Path(name).write_text(content)
    Path("binary.yaml").write_bytes(bytes(range(256)))
    Path("folder.yaml").mkdir()
    Path("a.csv").touch()
    Path("model.onnx").touch()
    Path("pictures").mkdir()
    Image.new("L", (28, 28), 99).save("pictures/a.png")
    model = ImageClassifier(hidden_dims=[8], class_names=[str(n) for n in range(10)])
    good = {"epoch": 0, "global_step": 1, "state_dict": model.state_dict(), "hyper_parameters": {**model.hparams}}
    good["conversion"] = model.conversion
    torch.save(good, "weights.ckpt")
    torch.save({**good, "epoch": Evil()}, "evil.ckpt")
    Path("cut.ckpt").write_bytes(Path("weights.ckpt").read_bytes()[:3000])
    assert main(["fit", *SMALL, "--model.hidden_dims=[8]"]) == 0


SMALL = ("--data.val_size=100", "--trainer.max_epochs=1")
CPU = "--trainer.accelerator cpu"
FIT = [
    # configurations
    ("--config nope.yaml", "--config nope.yaml: no such file; bundled: convnet.yaml, "),
    ("--config broken.yaml", "broken.yaml is not a configuration"),
    ("--config binary.yaml", "binary.yaml is not text"),
    ("--config text.yaml", "text.yaml is not a configuration: it holds no settings"),
    ("--config typo.yaml", "there is no option 'model.hiden_dims': did you mean 'model.hidden_dims'?"),
    ("--config twice.yaml", "twice.yaml is not a configuration: model is there twice"),
    ("--config type.yaml", "data.batch_size"),
    ("--config source.yaml", "Option 'rot' is not accepted; there are root, download"),
    ("--config ckpt.yaml", "ckpt.yaml: ckpt_path belongs on the command line"),
    ("--model x.yaml", "model is x.yaml: give a file of settings with --config"),
    # options
    ("--config", "expected one argument"),
    ("--trainer.max_epoch 3", "there is no option '--trainer.max_epoch': did you mean '--trainer.max_epochs'?"),
    ("--lr 0.1", "there is no option '--lr': did you mean '--model.optimizer.lr'?"),
    ("--batch-size 3", "there is no option '--batch-size': did you mean '--data.batch_size'?"),
    ("--model.optimizer.lrr 1", "Option 'lrr' is not accepted; there are lr, momentum"),
    # values
    ("--data.batch_size x", "\"data.batch_size\": Expected a <class 'int'>. Got value: x"),
    ("--data.val_size x", "\"data.val_size\": Expected a <class 'int'>. Got value: x; or Expected a <class 'float'>"),
    ("--model.optimizer.lr fast", "\"lr\": Expected a <class 'float'>. Got value: fast"),
    ("--model.hidden_dims wide", '"model.hidden_dims": Expected a'),
    ("--model.hidden_dims '[256]'", "--model.hidden_dims '[256]': here single quotes are part of the value"),
    ("--model.activation step", "\"model.activation\": Expected a typing.Literal['relu'"),
    ("--data.batch_size 0", "data.batch_size is 0: it must be at least 1"),
    ("--data.val_size 600", "data.val_size 600 of 600 images leaves none to train on: give a share"),
    ("--data.fold 6/5", "data.fold is 6/5: write 2/5"),
    ("--model.dropout 1.5", "model.dropout is 1.5: it must be in [0, 1)"),
    ("--seed_everything -1", "seed_everything is -1"),
    ("--model.class_names [a,b]", "model.class_names are those of the data: leave them out"),
    ("--name a/b", "--name a/b: give up to"),
    # classes
    ("--data.source.folder photos", "for your own pictures: --config folder.yaml"),
    ("--data.source NoSuchSource", '"data.source": Expected a dot import path string: NoSuchSource'),
    ("--data.source ImageFolder", '"data.source": the following arguments are required: folder'),
    ("--trainer.callbacks+=EarlyStopping", "the following arguments are required: monitor"),
    ("--model.optimizer torch.nn.Linear", "model.optimizer"),
    ("--model.optimizer.lr -1", "model.optimizer: Invalid learning rate: -1"),
    # custom networks
    ("--model.network no.Net", "No module named 'no'"),
    ("--model.network mynet.Nope", "mynet"),
    ("--model.network mynet.Nameless", "num_classes"),
    ("--model.network mynet.Untyped", "model.network: mynet.Untyped needs more: add --model.network.width VALUE"),
    ("--model.network mynet.Wrong", "returns the shape (2, 7) for two images: it must be (2, 10), a logit per class"),
    # Lightning and torch
    ("--trainer.accelerator tpu", "torch_xla"),
    ("--trainer.precision fp16", "trainer.precision"),
    (f"{CPU} --trainer.val_check_interval 1000", "must be less than or equal to the number of the training batches"),
    (f"{CPU} --trainer.strategy fsdp", "requires a GPU"),
    (f"{CPU} --model.hidden_dims [4000000000000]", "memory"),
    ("--trainer.callbacks+=RichProgressBar", "pip install -U rich"),
    ("--trainer.callbacks+=LearningRateFinder", "LearningRateFinder cannot set model.optimizer.lr"),
    (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/los",
        "EarlyStopping watches val/los, which this run does not have: there are train/acc",
    ),
    # what is trained, and from where
    ("--trainer.max_epochs 0", "there is nothing to train"),
    ("--trainer.max_epochs -1 --model.lr_schedule cosine", "a learning rate schedule needs an end"),
    ("--model.optimizer.lr 1e30", "the training loss is nan after epoch 1 at learning rate 1e+30"),
    ("--data.source.root broken.yaml", "broken.yaml"),
    ("--trainer.default_root_dir broken.yaml", "broken.yaml"),
    ("--ckpt_path nope.ckpt", "nope.ckpt: there is no such file"),
    ("--ckpt_path last --trainer.default_root_dir empty", "no trained model in empty/lightning_logs"),
    ("--ckpt_path weights.ckpt --trainer.max_epochs 2", "cannot be continued: it has no optimizer"),
]
LATE = ("--model.optimizer.lr 1e30",)  # found when a run has begun
CASES = [
    ("tset", "", "unknown command 'tset': did you mean 'test'?"),
    ("fit", "stray", "unexpected argument 'stray': options begin with --"),
    *(("fit", " ".join([*SMALL, argv]), message) for argv, message in FIT),
    ("test", "--trainer.default_root_dir empty", "run 'fmnist fit --config configs/mlp.yaml' first"),
    ("test", "--data.flip true", "--data.flip does nothing for test: leave it out"),
    ("test", "--ckpt_path cut.ckpt", "is not a checkpoint of fmnist"),
    ("test", "--ckpt_path evil.ckpt", "is not a checkpoint of fmnist"),
    ("predict", "", "--output"),
    ("predict", "--index 200", "--index 200: the test images are numbered from 0 to 199"),
    ("predict", "--output b.csv --save_converted seen", "--save_converted needs --images"),
    ("predict", "--images nope --output b.csv", "--images nope: there is no such file or folder"),
    ("predict", "--images pictures/a.png --output a.png", "must end in .csv or .jsonl"),
    ("prepare", "--batch-size 3", "there is no option '--batch-size': did you mean '--data.batch_size'?"),
    ("prepare", "--data.val_size 9 --show text.ckpt/x.png", "text.ckpt"),
    ("export", "", "output"),
    ("export", "--output model.onnx", "the file exists; add --overwrite"),
    ("serve", "--ckpt_path nope.ckpt", "there is no such file"),
    ("sweep", "trails.yaml", "trails: a sweep has config, search, try"),
    ("audit", "", "missing FOLDER, such as fmnist audit lightning_logs/folds (after: fmnist sweep"),
    ("audit", "nowhere", "nowhere: there is no such folder"),
    ("compare", "nope", "nope: there is no such folder"),
    ("compare", "--format pdf", "invalid choice: 'pdf'"),
    ("compare", "--fromat csv", "did you mean '--format'?"),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, small_files):
    """A folder with everything that the cases need."""
    with pytest.MonkeyPatch.context() as patch:
        small_files(patch, tmp_path_factory.mktemp("system"))
        patch.chdir(tmp_path_factory.mktemp("errors"))
        fill()
        yield Path.cwd()


@pytest.fixture
def place(filled, small_data, tmp_path, monkeypatch):
    """A copy of that folder, as the current one."""
    monkeypatch.chdir(shutil.copytree(filled, tmp_path / "place"))
    monkeypatch.syspath_prepend(tmp_path / "place")
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path / "place"


def files(folder):
    """Returns all files of a folder, those that come of an import left out."""
    return {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}


@pytest.mark.parametrize(("command", "argv", "message"), CASES, ids=[" ".join(case[:2]) for case in CASES])
def test_a_short_message_exit_code_2_and_nothing_left(place, cli, command, argv, message):
    before = files(place)
    code, _, err = cli(command, *argv.split())
    assert code == 2, err
    assert err.startswith("fmnist: error: ")
    assert err.count("\n") <= 3
    assert len(err) < 700
    assert message in err
    left = files(place) - before
    assert not [path for path in left if path.suffix == ".ckpt" or path.name == "executed"]
    assert not left or any(late in argv for late in LATE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_without_one(place, cli):
    code, _, err = cli("fit", *SMALL, "--trainer.accelerator", "gpu")
    assert code == 2
    assert err.count("\n") == 1
    assert "no gpu found on this machine: leave out --trainer.accelerator" in err


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "foreign"])
def test_damaged_data_is_named_offline(place, cli, damage, monkeypatch):
    assert cli("prepare", "--data.val_size", 100)[0] == 0
    path = place / "data/FashionMNIST/raw/train-labels-idx1-ubyte"
    good = path.read_bytes()
    path.write_bytes({"missing": b"", "truncated": good[:-1], "empty": b"", "foreign": b"%PDF" * 99}[damage])
    if damage == "missing":
        path.unlink()
    monkeypatch.setenv("FMNIST_DATA", str(place / "nowhere"))
    code, _, err = cli("fit", *SMALL, "--data.source.download", "false")
    assert code == 2
    assert err.count("\n") == 1
    assert "train-labels-idx1-ubyte (" in err
    assert not (place / "lightning_logs" / "version_1").exists()
