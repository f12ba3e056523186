"""Files that mean harm: refused in one line, nothing run, nothing written elsewhere."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from fmnist import ImageClassifier
from fmnist.runs.checkpoint import read_checkpoint
from tests.fuzz import CHECKPOINT, TARGETS, Code, fuzz

ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]" for n in range(30))
CONFIGS = {
    "multiplying aliases": ALIASES,
    "a circle": "model: &m {hidden_dims: [*m]}",
    "deep nesting": "model: " + "[" * 100_000,
    "deep blocks": "- " * 50_000 + "x",
    "a long number": "seed_everything: " + "9" * 4000,
    "a class": "model: !!python/object/apply:os.system ['touch executed']",
    "too large": "# " + "x" * 2_000_000,
    "not text": "\udcff",
    "a list": "[1, 2]",
}


@pytest.mark.signals
@pytest.mark.parametrize("target", TARGETS)
def test_two_hundred_inputs(target):
    report = fuzz(target, 200, same=True)
    assert report.inputs >= 200
    assert report.accepted > 0
    assert (report.accepted < report.inputs) == (target != "compare"), "which shows what it cannot read as such"


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("verb", ["fit", "prepare"])
def test_configurations(cli, workplace, config, verb):
    (workplace / "bad.yaml").write_text(CONFIGS[config], errors="surrogateescape")
    code, out, err = cli(verb, "--config", "bad.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("fmnist: error: bad.yaml is not a configuration: ")
    assert len(err.splitlines()) == 1
    assert len(err) < 400
    assert [path.name for path in workplace.iterdir()] == ["bad.yaml"]


def damaged(part, key, value):
    changed = {**CHECKPOINT, part: {**CHECKPOINT[part], key: value}}
    torch.save(changed, "bad.ckpt")


def big_archive():
    torch.save(CHECKPOINT, "small.ckpt")
    with zipfile.ZipFile("small.ckpt") as small, zipfile.ZipFile("bad.ckpt", "w", zipfile.ZIP_DEFLATED) as big:
        for name in small.namelist():
            big.writestr(name, small.read(name))
        big.writestr("archive/data/99", bytes(300_000_000))


CHECKPOINTS = {
    "code": lambda: torch.save({**CHECKPOINT, "callbacks": Code()}, "bad.ckpt"),
    "old format with code": lambda: torch.save(Code(), "bad.ckpt", _use_new_zipfile_serialization=False),
    "bare pickle": lambda: Path("bad.ckpt").write_bytes(pickle.dumps(Code())),
    "an archive that is small only on disk": big_archive,
    "a network of 80 GB": lambda: damaged("hyper_parameters", "hidden_dims", [10_000_000, 2_000]),
    "weights that are larger than their storage": lambda: damaged(
        "state_dict", "network.1.weight", torch.zeros(1, 1).expand(4, 784)
    ),
    "wrong shapes": lambda: damaged("state_dict", "network.1.weight", torch.zeros(5, 784)),
    "weights that are no numbers": lambda: damaged("state_dict", "network.1.weight", torch.full((4, 784), torch.nan)),
    "a temperature that is no number": lambda: damaged("state_dict", "temperature", torch.tensor(torch.nan)),
    "a network that is none": lambda: damaged("hyper_parameters", "network", {"class_path": "os.abort"}),
    "a network by its bare name": lambda: damaged("hyper_parameters", "network", "os.abort"),
    "another project": lambda: torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1}, "epoch": 1}, "bad.ckpt"),
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_checkpoints(cli, workplace, checkpoint):
    CHECKPOINTS[checkpoint]()
    for words in (["test"], ["fit"], ["predict", "--output", "out.csv"], ["export", "--output", "out.onnx"]):
        code, out, err = cli(*words, "--ckpt_path", "bad.ckpt")
        assert (code, out) == (2, "")
        assert "bad.ckpt" in err
        assert len(err.splitlines()) == 1
    assert {path.name for path in workplace.iterdir()} <= {"bad.ckpt", "small.ckpt"}


def test_an_optimizer_of_a_stranger_is_never_imported(cli, workplace):
    damaged("hyper_parameters", "optimizer", {"class_path": "this.SGD"})  # which prints, when it is imported
    for words in (["test"], ["predict", "--output", "out.csv"], ["export", "--output", "out.onnx"], ["fit"]):
        _, out, err = cli(*words, "--ckpt_path", "bad.ckpt")
        assert "Beautiful is better than ugly" not in out
    assert "bad.ckpt was trained with model.optimizer this.SGD, here is torch.optim." in err


@pytest.mark.parametrize(
    "described",
    [
        {"init_args": {"lr": "this.X"}},
        {"init_args": {"lr": {"class_path": "this.X"}}},
        {"init_args": {"lr.class_path": "this.X"}},
        {"init_args": {"betas": ["this.X", "this.X"]}},
        {"init_args": {1: "this.X"}},
        {"init_args": "this.X"},
        {"init_args": {"lr": 0.1}, "dict_kwargs": {"lr": "this.X"}},
    ],
)
def test_an_optimizer_of_torch_imports_nothing_by_its_settings(cli, workplace, described):
    damaged("hyper_parameters", "optimizer", {"class_path": "torch.optim.SGD", **described})
    code, out, err = cli("fit", "--ckpt_path", "bad.ckpt")
    assert code == 2
    assert "Beautiful is better than ugly" not in out + err


def test_a_good_checkpoint_is_read(workplace):
    torch.save(CHECKPOINT, "good.ckpt")
    model = ImageClassifier(hidden_dims=[4], class_names=["a", "b"])
    model.load_state_dict(read_checkpoint(workplace / "good.ckpt")["state_dict"])
