"""Over forty things that users get wrong: each costs one line, exit code 2, and nothing else."""

import re

import pytest
import torch

from fmnist import ImageClassifier
from tests.conftest import ROOT

SMALL = ("--data.val_size=100", "--model.hidden_dims=[8]", "--trainer.max_epochs=1")
BAD_FILES = {
    "broken.yaml": "model: [",
    "typo.yaml": "model: {hiden_dims: [3]}",
    "type.yaml": "data: {batch_size: many}",
    "list.yaml": "- 1\n- 2",
    "text.yaml": "just some text",
    "top.yaml": "modle: {dropout: 0.1}",
    "source.yaml": "data: {source: {class_path: fmnist.FashionMNIST, init_args: {rot: data}}}",
    "ckpt.yaml": "ckpt_path: last",
    "callback.yaml": "trainer: {callbacks: [{class_path: NoSuchCallback}]}",
    "empty.ckpt": "",
    "text.ckpt": "hello",
}


class Evil:
    def __reduce__(self):
        return (exec, ("open('executed', 'w').close()",))


def checkpoint(path, **changes):
    model = ImageClassifier(hidden_dims=[8], class_names=[str(n) for n in range(10)])
    content = {"epoch": 1, "global_step": 1, "state_dict": model.state_dict(), "hyper_parameters": {**model.hparams}}
    torch.save({**content, **changes}, path)


@pytest.fixture
def place(workplace):
    """A folder full of bad files, with a way to list what is in it."""
    for name, content in BAD_FILES.items():
        (workplace / name).write_text(content)
    (workplace / "binary.yaml").write_bytes(bytes(range(256)))
    (workplace / "folder.yaml").mkdir()
    checkpoint("evil.ckpt", epoch=Evil())
    checkpoint("other.ckpt", hyper_parameters={"lr": 0.1})
    checkpoint("shapes.ckpt", epoch=0, optimizer_states=[], state_dict={})
    checkpoint("weights.ckpt", epoch=0)
    checkpoint("foreign.ckpt")
    foreign = torch.load("foreign.ckpt", weights_only=True)
    foreign["hyper_parameters"]["network"] = {"class_path": "os.abort"}
    torch.save(foreign, "foreign.ckpt")
    checkpoint("cut.ckpt")
    cut = (workplace / "cut.ckpt").read_bytes()
    (workplace / "cut.ckpt").write_bytes(cut[: len(cut) // 2])
    return workplace


FIT = [
    ("--config nope.yaml", "nope.yaml"),
    ("--config folder.yaml", "folder.yaml"),
    ("--config broken.yaml", "config"),
    ("--config binary.yaml", "config"),
    ("--config typo.yaml", "there is no option 'model.hiden_dims': did you mean 'model.hidden_dims'?"),
    ("--config type.yaml", "data.batch_size"),
    ("--config list.yaml", "config"),
    ("--config text.yaml", "text.yaml is not a configuration: it holds no settings"),
    ("--config top.yaml", "there is no option 'modle"),
    ("--config source.yaml", "there is no option '--data.source.rot': did you mean '--data.source.root'?"),
    ("--config ckpt.yaml", "ckpt.yaml: ckpt_path belongs on the command line"),
    ("--config callback.yaml", "NoSuchCallback"),
    ("--config", "expected one argument"),
    ("--trainer.max_epoch 3", "there is no option '--trainer.max_epoch': did you mean '--trainer.max_epochs'?"),
    ("--model.dropot=0.5", "there is no option '--model.dropot': did you mean '--model.dropout'?"),
    ("--data.batch_sise 3", "did you mean '--data.batch_size'?"),
    ("stray", "'stray' is not expected here: options begin with --"),
    ("--data.batch_size x", "data.batch_size is x: it must be a whole number"),
    ("--lr 0.1", "there is no option '--lr': did you mean '--model.optimizer.lr'?"),
    ("-lr 0.1", "there is no option '--lr': did you mean '--model.optimizer.lr'?"),
    ("--model.lr=0.1", "did you mean '--model.optimizer.lr'?"),
    ("--epochs 3", "there is no option '--epochs': did you mean '--trainer.max_epochs'?"),
    ("--batch-size 3", "there is no option '--batch-size': did you mean '--data.batch_size'?"),
    ("--batch_size 3", "did you mean '--data.batch_size'?"),
    ("--hidden-dims 3", "did you mean '--model.hidden_dims'?"),
    ("--model.hidden_dims wide", "model.hidden_dims is wide: it must be a list such as [256,128]"),
    ("--model.hidden_dims 256 128", "'128' is not expected here: options begin with --; a list is one word"),
    ("--model.optimizer.lr fast", "model.optimizer.lr is fast: it must be a number"),
    ("--model.optimizer.nesterov ja", "model.optimizer.nesterov is ja: it must be true or false"),
    ("--model.optimizer.lrr 1", "there is no option '--model.optimizer.lrr': did you mean '--model.optimizer.lr'?"),
    ("--model.optimizer torch.nn.Linear", "model.optimizer: torch.nn.Linear is no Optimizer"),
    ("--model.network no.Net", "model.network: No module named 'no'; one of your own is named by its path"),
    ("--trainer.callbacks+=EarlyStopping", "EarlyStopping needs more: add --trainer.callbacks.monitor VALUE"),
    ("--trainer.callbacks+=Early", "there is no class Early; --trainer.callbacks.help lists the classes"),
    ("--trainer.logger Paper", "there is no class Paper; --trainer.logger.help lists the classes"),
    ("--data.source CSV --data.source.rows 1", "there is no option '--data.source.rows'"),
    ("--data.source ImageFolder", "data.source: ImageFolder needs more: add --data.source.folder VALUE"),
    ("--data.source.help Nothing", "there is no class Nothing"),
    ("--data.class_map 3", "data.class_map is 3: it must be names with values such as {a: b}"),
    ("--model x", "--model x: this is no configuration file"),
    ("--data.batch_size 0", "data.batch_size is 0: it must be at least 1"),
    ("--data.val_size -5", "data.val_size is -5: it must be at least 0"),
    ("--data.val_size 600", "data.val_size 600 of 600 images leaves none to train on: give a share"),
    ("--data.shift -1", "data.shift is -1"),
    ("--data.num_workers -1", "data.num_workers is -1"),
    ("--data.source NoSuchSource", "data.source: there is no class NoSuchSource; --data.source.help lists"),
    ("--data.source.root broken.yaml", "broken.yaml"),
    ("--model.activation step", "model.activation is step: it must be relu, gelu, silu or tanh"),
    ("--model.hidden_dims [0]", "model.hidden_dims is [0]"),
    ("--model.dropout 1.5", "model.dropout is 1.5: it must be in [0, 1)"),
    ("--model.std 0", "model.std is 0.0: it must be positive"),
    ("--model.warmup_ratio 2", "model.warmup_ratio is 2.0"),
    ("--model.label_smoothing 1", "model.label_smoothing is 1.0"),
    ("--model.mixup -0.1", "model.mixup is -0.1: it must not be negative"),
    ("--model.optimizer NoSuchOptimizer", "model.optimizer: there is no class NoSuchOptimizer"),
    ("--model.optimizer.lr -1", "model.optimizer: Invalid learning rate: -1"),
    ("--model.optimizer.lr 1e30", "the training loss is nan after epoch 1 at learning rate 1e+30"),
    ("--model.class_names [a,b]", "model.class_names are those of the data: leave them out"),
    ("--trainer.accelerator tpu", "torch_xla"),
    ("--trainer.accelerator abacus", "abacus"),
    ("--trainer.devices 0", "devices"),
    ("--trainer.max_epochs 0", "there is nothing to train"),
    ("--trainer.limit_train_batches 0", "there is nothing to train"),
    ("--seed_everything -1", "seed_everything is -1"),
    ("--model.optimizer LBFGS", "model.optimizer: LBFGS doesn't support per-parameter options"),
    ("--trainer.precision fp16", "trainer.precision"),
    ("--trainer.max_epochs -5", "max_epochs"),
    ("--trainer.max_epochs -1 --model.lr_schedule cosine", "a learning rate schedule needs an end"),
    ("--trainer.default_root_dir broken.yaml", "broken.yaml"),
    ("--ckpt_path nope.ckpt", "nope.ckpt: there is no such file"),
    ("--ckpt_path last", "no trained model in lightning_logs"),
    ("--ckpt_path folder.yaml", "folder.yaml: there is no such file"),
    ("--ckpt_path", "expected at least one argument"),
]
CHECKPOINTS = [
    ("empty.ckpt", "is not a checkpoint of fmnist"),
    ("text.ckpt", "is not a checkpoint of fmnist"),
    ("cut.ckpt", "is not a checkpoint of fmnist"),
    ("evil.ckpt", "is not a checkpoint of fmnist"),
    ("other.ckpt", "is the checkpoint of another project"),
    ("foreign.ckpt", "names os.abort"),
    ("shapes.ckpt", "its weights do not fit the network it describes"),
]
OTHER = [
    ("tset", "there is no verb 'tset': did you mean 'test'?"),
    ("test", "run 'python -m fmnist fit --config configs/mlp.yaml' first"),
    ("validate --ckpt_path nope.ckpt", "no such file"),
    ("predict --output a.csv", "no trained model"),
    ("prepare --data.val_size 1000", "leaves none to train on"),
    ("prepare --shwo x.png", "did you mean '--show'?"),
    ("prepare --batch-size 3", "there is no option '--batch-size', and data.batch_size is of no use to prepare"),
    ("prepare --lr 3", "there is no option '--lr'"),
    ("compare --fromat csv", "did you mean '--format'?"),
    ("prepare --data.val_size 9 --show text.ckpt/x.png", "text.ckpt"),
]
LONGER = "fit --trainer.max_epochs 2"
CASES = [
    *((f"fit {words}", message) for words, message in FIT),
    (f"{LONGER} --ckpt_path weights.ckpt", "cannot be continued: it has no optimizer"),
    *((f"{verb} --ckpt_path {name}", message) for name, message in CHECKPOINTS for verb in ("test", LONGER)),
    *OTHER,
]


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file() and "data/FashionMNIST" not in str(path)}


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command for command, _ in CASES])
def test_one_line_exit_code_2_and_nothing_left(place, cli, command, message):
    before = files(place)
    verb, *words = command.split()
    code, _, err = cli(verb, *(SMALL if verb == "fit" else ()), *words)
    assert code == 2
    assert err.startswith("fmnist: error: ")
    assert err.count("\n") == 1
    assert len(err) < 700
    assert not re.search(r"NestedArg|<class|Namespace|Union|Parser key", err)
    assert message in err
    assert not {path for path in files(place) - before if path.suffix == ".ckpt" or path.name == "executed"}
    if "1e30" not in command:
        assert files(place) == before


def test_there_are_more_than_forty():
    assert len(CASES) > 40


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
    assert not (place / "lightning_logs").exists()


def test_a_mistake_that_is_found_late_leaves_no_run(workplace, cli):
    words = ("--config", ROOT / "configs/mlp.yaml", "--data.val_size=100", "--trainer.val_check_interval=1000")
    code, _, err = cli("fit", *words)
    assert code == 2
    assert err.count("\n") == 1
    assert "val_check_interval" in err
    assert not list((workplace / "lightning_logs").glob("version_*"))
