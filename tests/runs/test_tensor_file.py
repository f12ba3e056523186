"""Models to hand around: the same answers as the checkpoint, and nothing that could run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from examples.convnet import ConvNet
from fmnist import ImageClassifier, UserError, load
from fmnist.runs.checkpoint import read_checkpoint
from fmnist.runs.folder import results_folder
from fmnist.runs.tensor_file import pack
from fmnist.training.pretrained import Pretrained
from tests.conftest import ROOT
from tests.fuzz import CHECKPOINT
from tests.runs.test_checkpoint import PREDICT, refuse

BEST = Path("lightning_logs/version_0/checkpoints/best.ckpt")
MODEL = Path("model.safetensors")
SMALL = ("--data.val_size", 300, "--data.batch_size", 100, "--trainer.max_epochs", 1)
MLP = ("--model.hidden_dims=[8]", "--model.normalization=batch", "--model.optimizer=AdamW")
NETWORK = ("--model.network", "examples.convnet.ConvNet")
IMAGES = torch.arange(50 * 784).mul(7919).remainder(256).to(torch.uint8).view(50, 1, 28, 28)


def packed(header, content=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    Path("bad.safetensors").write_bytes(
        (len(text) if length is None else length).to_bytes(8, "little") + text + content
    )


def repacked(change):
    """Packs a good checkpoint and changes its header."""
    good = pack(CHECKPOINT)
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    change(header)
    packed(header, good[8 + length :])


def edited(header, **changes):
    described = {**json.loads(header["__metadata__"]["fmnist"]), **changes}
    header["__metadata__"]["fmnist"] = json.dumps(described)


FIRST = "state_dict/network.1.weight"
SAFETENSORS = {
    "a header of 8 exabytes": lambda: packed({}, length=2**63),
    "a header larger than the file": lambda: packed({}, length=1000),
    "a header of 2 MB": lambda: packed(b"{}".ljust(2_000_000)),
    "a deep header": lambda: packed(b"[" * 900_000),
    "many values": lambda: packed(b'{"a":[' + b"0," * 400_000 + b"0]}"),
    "a long number": lambda: packed(b"9" * 900_000),
    "no header": lambda: Path("bad.safetensors").write_bytes(b"x"),
    "no text": lambda: packed({}),
    "text of something else": lambda: packed({"__metadata__": {"fmnist": "[]"}}),
    "a tensor of exabytes": lambda: repacked(lambda header: header[FIRST].update(shape=[2**30, 2**30])),
    "a tensor of no size": lambda: repacked(lambda header: header[FIRST].update(shape=[0, 2**30])),
    "a negative shape": lambda: repacked(lambda header: header[FIRST].update(shape=[-4, -784])),
    "another type": lambda: repacked(lambda header: header[FIRST].update(dtype="F64")),
    "tensors in the same memory": lambda: repacked(lambda header: header.update({"typicality/levels": header[FIRST]})),
    "a gap": lambda: repacked(lambda header: header.pop(FIRST)),
    "the same name twice": lambda: packed(b'{"a": 1, "a": 2}'),
    "half a letter": lambda: repacked(
        lambda header: edited(
            header, hyper_parameters={**CHECKPOINT["hyper_parameters"], "class_names": ["a", "\ud800"]}
        )
    ),
    "many settings": lambda: repacked(
        lambda header: edited(header, hyper_parameters={**CHECKPOINT["hyper_parameters"], "dropout": [0] * 20_000})
    ),
    "a weight that is no tensor": lambda: repacked(lambda header: edited(header, state_dict={"network.1.weight": 1})),
    "a conversion that is a number": lambda: repacked(lambda header: edited(header, conversion=5)),
}


def run(cli, *args):
    code, out, err = cli(*args)
    assert (code, err) == (0, "")
    return out


def assert_same_answers(found, expected):
    for one, other in zip(found.predict(IMAGES)[:3], expected.predict(IMAGES)[:3], strict=True):
        assert one is other is None or torch.equal(one, other)
    assert (found.class_names, found.description) == (expected.class_names, expected.description)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_every_command_prints_the_same(workplace, cli, kind):
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("__pycache__"))
    options, network = ((), None) if kind == "mlp" else (NETWORK, ConvNet)
    run(cli, "fit", *SMALL, *(MLP if kind == "mlp" else (*NETWORK, "--model.network.width", 2)))
    out = run(cli, "export", "--output", MODEL, *options)
    assert "checked the file's content on 1,000 images: same class for 100.00%, probabilities within 0.0e+00" in out
    assert_same_answers(load(MODEL, network=network), load(BEST, network=network))
    figures = []
    for path, settings in ((BEST, ()), (MODEL, SMALL[:2])):
        output = f"{path.suffix[1:]}.csv"
        printed = run(cli, "validate", "--ckpt_path", path, *options, *settings).replace(str(path), "")
        run(cli, "predict", "--output", output, "--ckpt_path", path, *options)
        run(cli, "test", "--ckpt_path", path, *options)
        metrics = json.loads((results_folder(path) / "metrics.json").read_text())
        measured = [metrics[name] for name in ("acc", "nll", "ece", "epoch", "temperature")]
        figures.append((printed, Path(output).read_text(), measured, metrics["digests"]["split"]))
    assert figures[0] == figures[1]
    run(cli, "export", "--output", "again.safetensors", "--ckpt_path", MODEL, *options)
    assert Path("again.safetensors").read_bytes() == MODEL.read_bytes()
    for name, weight in Pretrained(str(BEST)).weights.items():
        assert torch.equal(Pretrained(str(MODEL)).weights[name], weight)


def test_a_run_begins_with_it_and_cannot_be_continued_from_it(workplace, cli):
    MODEL.write_bytes(pack(ten_classes(0)))
    out = run(cli, "fit", *SMALL, "--model.hidden_dims=[4]", "--model.weights", MODEL)
    assert "weights: model.safetensors (epoch 4)" in out
    code, _, err = cli("fit", "--ckpt_path", MODEL)
    assert (code, err) == (2, "fmnist: error: model.safetensors cannot be continued: it has no optimizer\n")


def ten_classes(seed):
    torch.manual_seed(seed)
    model = ImageClassifier(hidden_dims=[4], class_names=[f"class {number}" for number in range(10)])
    return {**CHECKPOINT, "state_dict": dict(model.state_dict()), "hyper_parameters": dict(model.hparams)}


def test_members_of_an_ensemble_give_the_same_answers(workplace, cli):
    for seed in range(2):
        torch.save(ten_classes(seed), f"{seed}.ckpt")
        Path(f"{seed}.safetensors").write_bytes(pack(read_checkpoint(Path(f"{seed}.ckpt"))))
    assert_same_answers(load(["0.safetensors", "1.safetensors"]), load(["0.ckpt", "1.ckpt"]))
    assert not torch.equal(load("0.safetensors").predict(IMAGES).logits, load("1.ckpt").predict(IMAGES).logits)
    rows = []
    for members in (["0.ckpt", "1.ckpt"], ["0.safetensors", "1.safetensors"], ["0.ckpt", "1.safetensors"]):
        run(
            cli,
            "predict",
            "--images",
            ROOT / "docs/boot.png",
            "--output",
            "x.csv",
            "--overwrite",
            "--ckpt_path",
            *members,
        )
        rows.append(Path("x.csv").read_text())
    assert rows[0] == rows[1] == rows[2]


def test_the_description_of_the_data_is_kept(tmp_path):
    data = {"split": "abc", "trained_on": torch.arange(5), "validated_on": torch.zeros(0), "source": {"name": "é"}}
    content = {**CHECKPOINT, "FashionMNISTDataModule": data, "conversion": {"name": "resize", "transform": None}}
    torch.save(content, tmp_path / "any.ckpt")
    before = read_checkpoint(tmp_path / "any.ckpt")
    (tmp_path / "any.safetensors").write_bytes(pack(before))
    after = read_checkpoint(tmp_path / "any.safetensors")
    assert after.keys() == before.keys() - {"global_step", "callbacks", "optimizer_states", "lr_schedulers"}
    for key, value in after["FashionMNISTDataModule"].items():
        assert torch.equal(value, data[key]) if isinstance(value, torch.Tensor) else value == data[key]
    assert {**after, **dict.fromkeys(("state_dict", "FashionMNISTDataModule"))} == {
        **{key: before[key] for key in after},
        **dict.fromkeys(("state_dict", "FashionMNISTDataModule")),
    }


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("network.twin", CHECKPOINT["state_dict"]["network.1.weight"], "network.twin, which shares its memory with "),
        ("network.odd", torch.zeros(3, dtype=torch.complex64), "network.odd, which is torch.complex64"),
    ],
)
def test_what_it_cannot_hold_is_named(name, tensor, message):
    with pytest.raises(UserError, match=f"safetensors cannot hold {message}"):
        pack({**CHECKPOINT, "state_dict": {**CHECKPOINT["state_dict"], name: tensor}})


def test_views_are_stored_as_what_they_show(tmp_path):
    wide = torch.arange(2.0 * 784 * 4).view(784, 8)
    content = {**CHECKPOINT, "state_dict": {**CHECKPOINT["state_dict"], "network.1.weight": wide[:, ::2].T}}
    (tmp_path / "any.safetensors").write_bytes(pack(content))
    found = read_checkpoint(tmp_path / "any.safetensors")["state_dict"]["network.1.weight"]
    assert found.is_contiguous()
    assert torch.equal(found, wide[:, ::2].T)


def test_the_library_of_that_name_writes_and_reads_the_same(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    content = pack(CHECKPOINT)
    found = library.load(content)
    expected = {f"state_dict/{name}": weight for name, weight in CHECKPOINT["state_dict"].items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    (tmp_path / "any.safetensors").write_bytes(library.save(found, header["__metadata__"]))
    again = read_checkpoint(tmp_path / "any.safetensors")
    assert all(torch.equal(again["state_dict"][name], weight) for name, weight in CHECKPOINT["state_dict"].items())


@pytest.mark.signals
@pytest.mark.parametrize("harm", SAFETENSORS)
def test_a_file_of_safetensors_that_means_harm_costs_a_line(cli, workplace, harm):
    SAFETENSORS[harm]()
    refuse(cli, "bad.safetensors", PREDICT)
