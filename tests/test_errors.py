"""What users get wrong, a case of each kind: one line, exit code 2, and nothing is left behind."""

import re
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
    "callback.yaml": "trainer: {callbacks: [{class_path: NoSuchCallback}]}",
    "trails.yaml": "{config: mlp.yaml, trails: 3}",
    "text.ckpt": "hello",
    "mynet.py": """
import torch
from torch import nn

class Wrong(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 7))

class Colour(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, num_classes))

class Broken(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))
        self[1].bias.data.fill_(float("nan"))

class Nameless(nn.Sequential):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, classes))

class Pair(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(784, num_classes)

    def forward(self, images):
        return self.layer(images.flatten(1)), images
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
    ("--config nope.yaml", "nope.yaml"),
    ("--config folder.yaml", "folder.yaml"),
    ("--config broken.yaml", "config"),
    ("--config binary.yaml", "config"),
    ("--config text.yaml", "text.yaml is not a configuration: it holds no settings"),
    ("--config typo.yaml", "there is no option 'model.hiden_dims': did you mean 'model.hidden_dims'?"),
    ("--config type.yaml", "data.batch_size"),
    ("--config source.yaml", "there is no option '--data.source.rot': did you mean '--data.source.root'?"),
    ("--config callback.yaml", "NoSuchCallback"),
    ("--config ckpt.yaml", "ckpt.yaml: ckpt_path belongs on the command line"),
    ("--model x", "--model x: this is no configuration file"),
    # options
    ("--config", "expected one argument"),
    ("stray", "'stray' is not expected here: options begin with --"),
    ("--trainer.max_epoch 3", "there is no option '--trainer.max_epoch': did you mean '--trainer.max_epochs'?"),
    ("--lr 0.1", "there is no option '--lr': did you mean '--model.optimizer.lr'?"),
    ("-lr 0.1", "there is no option '--lr': did you mean '--model.optimizer.lr'?"),
    ("--batch-size 3", "there is no option '--batch-size': did you mean '--data.batch_size'?"),
    ("--model.optimizer.lrr 1", "there is no option '--model.optimizer.lrr': did you mean '--model.optimizer.lr'?"),
    ("--data.source CSV --data.source.rows 1", "there is no option '--data.source.rows'"),
    # values
    ("--data.batch_size x", "data.batch_size is x: it must be a whole number"),
    ("--model.optimizer.lr fast", "model.optimizer.lr is fast: it must be a number"),
    ("--model.optimizer.nesterov ja", "model.optimizer.nesterov is ja: it must be true or false"),
    ("--model.hidden_dims wide", "model.hidden_dims is wide: it must be a list such as [256,128]"),
    ("--model.hidden_dims 256 128", "'128' is not expected here: options begin with --; a list is one word"),
    ("--data.class_map 3", "data.class_map is 3: it must be names with values such as {a: b}"),
    ("--model.activation step", "model.activation is step: it must be relu, gelu, silu or tanh"),
    ("--data.batch_size 0", "data.batch_size is 0: it must be at least 1"),
    ("--data.val_size 600", "data.val_size 600 of 600 images leaves none to train on: give a share"),
    ("--data.fold 6/5", "data.fold is 6/5: write 2/5"),
    ("--data.fold x", "data.fold is x: write 2/5"),
    ("--data.fold 7/601", "600 different images cannot be 601 folds"),
    ("--model.hidden_dims [0]", "model.hidden_dims is [0]"),
    ("--model.dropout 1.5", "model.dropout is 1.5: it must be in [0, 1)"),
    ("--model.std 0", "model.std is 0.0: it must be positive"),
    ("--model.warmup_ratio 2", "model.warmup_ratio is 2.0"),
    ("--model.label_smoothing 1", "model.label_smoothing is 1.0"),
    ("--model.mixup -0.1", "model.mixup is -0.1: it must not be negative"),
    ("--seed_everything -1", "seed_everything is -1"),
    ("--model.class_names [a,b]", "model.class_names are those of the data: leave them out"),
    # classes
    ("--data.source NoSuchSource", "data.source: there is no class NoSuchSource; --data.source.help lists"),
    ("--data.source.help Nothing", "there is no class Nothing"),
    ("--data.source ImageFolder", "data.source: ImageFolder needs more: add --data.source.folder VALUE"),
    ("--trainer.callbacks+=EarlyStopping", "EarlyStopping needs more: add --trainer.callbacks.monitor VALUE"),
    ("--trainer.callbacks+=Early", "there is no class Early; --trainer.callbacks.help lists the classes"),
    ("--model.optimizer NoSuchOptimizer", "model.optimizer: there is no class NoSuchOptimizer"),
    ("--model.optimizer torch.nn.Linear", "model.optimizer: torch.nn.Linear is no Optimizer"),
    ("--model.optimizer LBFGS", "model.optimizer: LBFGS doesn't support per-parameter options"),
    ("--model.optimizer SparseAdam", "SparseAdam does not support dense gradients"),
    ("--model.optimizer.lr -1", "model.optimizer: Invalid learning rate: -1"),
    # networks of one's own
    ("--model.network no.Net", "model.network: No module named 'no'; one of your own is named by its path"),
    ("--model.network mynet.Nope", "mynet"),
    ("--model.network mynet.Nameless", "num_classes"),
    ("--model.network mynet.Wrong", "returns the shape (2, 7) for two images: it must be (2, 10), a logit per class"),
    ("--model.network mynet.Colour", "cannot take normalized images, float (2, 1, 28, 28): "),
    ("--model.network mynet.Broken", "returns logits that are not finite, when it is new"),
    ("--model.network mynet.Pair", "returns a tuple: it must return logits as a tensor"),
    # Lightning and torch
    ("--trainer.accelerator tpu", "torch_xla"),
    ("--trainer.precision fp16", "trainer.precision"),
    (f"{CPU} --trainer.devices 0", "devices"),
    (f"{CPU} --trainer.val_check_interval 1000", "must be less than or equal to the number of the training batches"),
    (f"{CPU} --trainer.strategy fsdp", "requires a GPU"),
    (f"{CPU} --trainer.strategy ddp_spawn --trainer.devices 2", "take ddp"),
    (f"{CPU} --trainer.sync_batchnorm true --trainer.devices 2", "works on GPUs alone"),
    (f"{CPU} --trainer.barebones true", "would leave neither metrics nor a checkpoint"),
    (f"{CPU} --model.hidden_dims [4000000000000]", "out of memory"),
    ("--trainer.callbacks+=RichProgressBar", "pip install -U rich"),
    ("--trainer.logger WandbLogger", "pip install -U 'wandb"),
    ("--trainer.callbacks+=LearningRateFinder", "should have one of these fields: ('lr', 'learning_rate')"),
    ("--trainer.callbacks+=BackboneFinetuning", "'ImageClassifier' object has no attribute 'backbone'"),
    ("--trainer.callbacks+=StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.05", "take EMAWeightAveraging"),
    (
        "--trainer.callbacks+=EMAWeightAveraging --trainer.callbacks.update_starting_at_step=9",
        "never begin: the training has 8 steps in 1 epoch",
    ),
    # what is trained, and from where
    ("--trainer.max_epochs 0", "there is nothing to train"),
    ("--trainer.max_epochs -1 --model.lr_schedule cosine", "a learning rate schedule needs an end"),
    ("--trainer.max_time 00:00:00:00", "nothing has been trained"),
    ("--model.optimizer.lr 1e30", "the training loss is nan after epoch 1 at learning rate 1e+30"),
    ("--data.source.root broken.yaml", "broken.yaml"),
    ("--trainer.default_root_dir broken.yaml", "broken.yaml"),
    ("--ckpt_path nope.ckpt", "nope.ckpt: there is no such file"),
    ("--ckpt_path folder.yaml", "folder.yaml: there is no such file"),
    ("--ckpt_path last --trainer.default_root_dir empty", "no trained model in empty/lightning_logs"),
    ("--ckpt_path weights.ckpt --trainer.max_epochs 2", "cannot be continued: it has no optimizer"),
]
LATE = ("--model.optimizer.lr 1e30", "--trainer.max_time")  # found when a run has begun
CASES = [
    ("tset", "", "there is no verb 'tset': did you mean 'test'?"),
    *(("fit", " ".join([*SMALL, words]), message) for words, message in FIT),
    ("validate", "--ckpt_path nope.ckpt", "no such file"),
    ("test", "--trainer.default_root_dir empty", "run 'python -m fmnist fit --config configs/mlp.yaml' first"),
    ("test", "--ckpt_path cut.ckpt", "is not a checkpoint of fmnist"),
    ("test", "--ckpt_path evil.ckpt", "is not a checkpoint of fmnist"),
    ("predict", "", "say where the predictions go"),
    ("predict", "--index 200", "--index 200: the test images are numbered from 0 to 199"),
    ("predict", "--output b.csv --index 1", "leave out --output"),
    ("predict", "--output b.csv --trainer.limit_predict_batches 0", "there is nothing to predict"),
    ("predict", "--output b.csv --save_converted seen", "--save_converted needs --images"),
    ("predict", "--output b.csv --explain why", "--explain needs --images"),
    ("predict", "--images nope --output b.csv", "--images nope: there is no such file or folder"),
    ("predict", "--images folder.yaml --output b.csv", "the folder holds no pictures"),
    ("predict", "--images= --output b.csv", "--images is empty"),
    ("predict", "--images pictures --index 3", "leave out --output and --images"),
    ("predict", "--images pictures/a.png --output a.png", "must end in .csv or .jsonl"),
    ("predict", "--images a.csv --output a.csv --overwrite", "this is one of the pictures"),
    ("predict", "--images pictures --output b.csv --save_converted data", "this exists; give a new or an empty folder"),
    ("predict", "--images pictures --output b.csv --explain pictures/why", "inside the folder of the pictures"),
    ("prepare", "--batch-size 3", "there is no option '--batch-size', and data.batch_size is of no use to prepare"),
    ("prepare", "--data.val_size 9 --show text.ckpt/x.png", "text.ckpt"),
    ("export", "", "output"),
    ("export", "--output model.txt", "must end in .onnx, .html or .safetensors"),
    ("export", "--output model.onnx", "the file exists; add --overwrite"),
    ("serve", "--ckpt_path nope.ckpt", "there is no such file"),
    ("sweep", "trails.yaml", "trails: a sweep has config, search, try"),
    ("audit", "", "name the folder that holds the runs"),
    ("audit", "nowhere", "nowhere: there is no such folder"),
    ("audit", "lightning_logs", "holds no runs with data.fold"),
    ("compare", "nope", "nope: there is no such folder"),
    ("compare", "pictures", "holds no runs"),
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
def test_one_line_exit_code_2_and_nothing_left(place, cli, command, argv, message):
    before = files(place)
    code, _, err = cli(command, *argv.split())
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("fmnist: error: ")
    assert len(err) < 700
    assert not re.search(r"NestedArg|<class|Namespace|Union|Parser key", err)
    assert message in err
    left = files(place) - before
    assert not [path for path in left if path.suffix == ".ckpt" or path.name == "executed"]
    assert not left or any(late in argv for late in LATE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_without_one(place, cli):
    code, _, err = cli("fit", *SMALL, "--trainer.accelerator", "gpu")
    assert code == 2
    assert err.count("\n") == 1
    assert "gpu" in err


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
