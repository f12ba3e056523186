"""Checkpoints that are made to take time or memory: refused in a line, soon, with little memory."""

import io
import pickle
import re
import struct
import time
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fmnist import ImageClassifier, UserError, load
from fmnist.runs.checkpoint import read_checkpoint
from tests.conftest import ROOT
from tests.fuzz import CHECKPOINT, CODE, SAVED, Call, shared

resource = pytest.importorskip("resource")  # Windows has none
pytestmark = pytest.mark.signals
PREDICT = ["predict", "--images", ROOT / "docs/boot.png"]
COMMANDS = (
    PREDICT,
    ["predict", "--output", "out.csv"],
    ["test"],
    ["validate"],
    ["fit"],
    ["export", "--output", "out.onnx"],
    ["export", "--output", "out.safetensors"],
    ["serve"],
)
DATA = "FashionMNISTDataModule"
WIDE = torch.zeros(1, dtype=torch.int64).expand(10**9)


class Raw:
    """Writes what it is given as it is, instead of a pickler."""

    def __init__(self, file, protocol):
        self.file = file

    def dump(self, content):
        self.file.write(content)


def saved(**changes):
    torch.save({**CHECKPOINT, **changes}, "bad.ckpt")


def setting(**changes):
    saved(hyper_parameters={**CHECKPOINT["hyper_parameters"], **changes})


def weight(name, tensor):
    saved(state_dict={**CHECKPOINT["state_dict"], name: tensor})


def raw(content):
    torch.save(content, "bad.ckpt", pickle_module=SimpleNamespace(__name__="raw", Pickler=Raw))


def tied_layers():
    """Writes 400 layers, 1 GB, that all lie in the same 2 MB."""
    weight = torch.zeros(784, 784)
    weights = {
        f"network.{2 * layer + 1}.{name}": weight[0] if name == "bias" else weight
        for layer in range(400)
        for name in ("weight", "bias")
    }
    last = {"network.801.weight": weight[:2], "network.801.bias": weight[0, :2], "temperature": torch.ones(())}
    saved(state_dict=weights | last, hyper_parameters={**CHECKPOINT["hyper_parameters"], "hidden_dims": [784] * 400})


def edited(*changes):
    content = SAVED
    for old, new, times in changes:
        assert old in content
        content = content.replace(old, new, times)
    Path("bad.ckpt").write_bytes(content)


def repickled(old, new):
    """Changes a pickle, which stays as long as it is, and the sums that go with it."""
    with zipfile.ZipFile(io.BytesIO(SAVED)) as archive:
        before = archive.read("archive/data.pkl")
    after = before.replace(old, new, 1)
    sums = (struct.pack("<L", zlib.crc32(content)) for content in (before, after))
    edited((before, after, 1), (*sums, -1))


def compressed():
    with zipfile.ZipFile(io.BytesIO(SAVED)) as small, zipfile.ZipFile("bad.ckpt", "w", zipfile.ZIP_DEFLATED) as big:
        for name in small.namelist():
            big.writestr(name, small.read(name))
        big.writestr("archive/data/99", bytes(300_000_000))


def appended():
    Path("bad.ckpt").write_bytes(SAVED)
    with zipfile.ZipFile("bad.ckpt", "a") as archive:
        archive.writestr("archive/data.pkl2", b"x")


REFUSED = r"{} (is not a checkpoint of fmnist \(|is the checkpoint of another project|was trained with os\.abort[;:])"
LOCATOR = SAVED[-42:-22]
HARMS = {
    # no checkpoint, or one with code
    "an empty file": lambda: Path("bad.ckpt").touch(),
    "a text": lambda: Path("bad.ckpt").write_text("hello"),
    "half of a file": lambda: Path("bad.ckpt").write_bytes(SAVED[: len(SAVED) // 2]),
    "a list": lambda: torch.save([1, 2], "bad.ckpt"),
    "another project": lambda: torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1}, "epoch": 1}, "bad.ckpt"),
    "code": lambda: saved(callbacks=CODE),
    "old format with code": lambda: torch.save(CODE, "bad.ckpt", _use_new_zipfile_serialization=False),
    "bare pickle": lambda: Path("bad.ckpt").write_bytes(pickle.dumps(CODE)),
    "a network that is none": lambda: setting(network={"class_path": "os.abort"}),
    "a network by its bare name": lambda: setting(network="os.abort"),
    # shared lists, which multiply as soon as somebody walks through them, prints them or copies them
    "settings that multiply": lambda: setting(dropout=shared("x")),
    "a long text that multiplies": lambda: setting(dropout=shared("x" * 100_000, 3)),
    "settings in a circle": lambda: raw(b"\x80\x02]q\0h\0a."),
    "a conversion that multiplies": lambda: saved(conversion={"name": shared("x"), "transform": None}),
    "a record of the data that multiplies": lambda: saved(**{DATA: {"split": shared("x")}}),
    "states of callbacks that multiply": lambda: saved(callbacks={"Timer": shared(())}),
    "deep settings": lambda: setting(dropout=eval("[" * 90 + "]" * 90)),
    "a key that takes for ever to find": lambda: raw(b"\x80\x02}K\1" + b"q\0h\0\x86" * 60 + b"K\1s."),
    "dicts that are filled from one list": lambda: saved(
        callbacks=(lambda pairs: [Call(OrderedDict, pairs) for _ in range(5000)])([(n, n) for n in range(20_000)])
    ),
    "versions of one module for many": lambda: raw(
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadata}"
        + b"("
        + b"".join(b"M" + struct.pack("<H", n) + b"}" for n in range(60_000))
        + b"usq\0"
        + b"h\0b" * 60_000
        + b"."
    ),
    # memory by a number
    "a gigabyte of nothing": lambda: saved(callbacks=Call(bytearray, 10**9)),
    "an operation of another protocol": lambda: raw(b"\x80\x05\x96" + (10**9).to_bytes(8, "little") + b"."),
    "text by a function": lambda: saved(callbacks=b"x" * 10),
    "many values": lambda: saved(callbacks=[[n] for n in range(200_000)]),
    "a pickle of 5 MB": lambda: saved(callbacks="x" * 5_000_000),
    "many marks in few bytes": lambda: raw(b"\x80\x02" + b"(" * 3_900_000 + b"t."),
    "many lists in few bytes": lambda: raw(b"\x80\x02(" + b"]" * 3_900_000 + b"t."),
    # archives that torch does not write
    "something behind the end": lambda: Path("bad.ckpt").write_bytes(SAVED + b"x"),
    "a comment": lambda: Path("bad.ckpt").write_bytes(SAVED[:-2] + b"\5\0hello"),
    "something before the beginning": lambda: Path("bad.ckpt").write_bytes(b"x" + SAVED),
    "a second directory": lambda: edited((LOCATOR, LOCATOR[:8] + struct.pack("<Q", 64) + LOCATOR[16:], 1)),
    "another name in its head": lambda: edited((b"archive/data/1", b"archive/data/7", 1)),
    "a part that torch does not write": appended,
    "a weight that has changed": lambda: edited(
        (CHECKPOINT["state_dict"]["network.1.bias"].numpy().tobytes(), b"\0" * 16, 1)
    ),
    "an archive that is small only on disk": compressed,
    "a tensor of more than is stored": lambda: repickled(b"M@\x0c", b"M\xff\xff"),
    # tensors that are larger than they are stored
    "images trained on": lambda: saved(**{DATA: {"trained_on": WIDE}}),
    "a state of the optimizer": lambda: saved(optimizer_states=[{"state": {0: {"momentum_buffer": WIDE}}}]),
    "a state of a callback": lambda: saved(callbacks={"EarlyStopping": {"best_score": WIDE}}),
    "typicality": lambda: saved(typicality={"levels": torch.zeros(1).expand(10**9)}),
    "layers in the same memory": tied_layers,
    "weights that are larger than their storage": lambda: weight("network.1.weight", torch.zeros(1, 1).expand(4, 784)),
    # weights that do not fit, or are no numbers
    "an activation that does not exist": lambda: setting(activation="sine"),
    "a network of 80 GB": lambda: setting(hidden_dims=[10_000_000, 2_000]),
    "wrong shapes": lambda: weight("network.1.weight", torch.zeros(5, 784)),
    "weights that are no numbers": lambda: weight("network.1.weight", torch.full((4, 784), torch.nan)),
    "a temperature that is no number": lambda: weight("temperature", torch.tensor(torch.nan)),
    # what is of another kind than everybody expects
    "a conversion that is a number": lambda: saved(conversion=5),
    "a conversion without a name": lambda: saved(conversion={"a": 1}),
    "a transform that is a number": lambda: saved(conversion={"name": "distance", "transform": 5}),
    "a record of the data that is a list": lambda: saved(**{DATA: []}),
    "a record of the data that is missing": lambda: saved(**{DATA: None}),
    "images trained on that are floats": lambda: saved(**{DATA: {"trained_on": torch.zeros(3)}}),
    "typicality that is text": lambda: saved(typicality={"levels": "x"}),
    "weights that are a list": lambda: saved(state_dict=[]),
    "no classes": lambda: setting(class_names=[]),
    "half a letter": lambda: setting(class_names=["a", "\ud800"]),
    "classes that are numbers": lambda: setting(class_names=[1, 2]),
    # answers that are no numbers
    "a deviation next to nothing": lambda: setting(std=1e-320),
    "weights that overflow": lambda: weight("network.1.weight", torch.full((4, 784), 3e38)),
}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refuse(cli, name, *commands):
    """Checks that commands refuse a file in a short line, in little time, and write nothing."""
    before, memory = sorted(Path.cwd().iterdir()), peak()
    for args in commands:
        start = time.process_time()
        code, out, err = cli(*args, "--ckpt_path", name)
        assert time.process_time() - start < 2
        assert (code, out) == (2, "")
        assert re.match(f"fmnist: error: {REFUSED.format(name)}", err)
        assert (err.count("\n"), len(err) < 400) == (1, True)
    with pytest.raises(UserError, match=f"^{REFUSED.format(name)}"):
        load(name)
    assert peak() - memory < 200e6
    assert sorted(Path.cwd().iterdir()) == before


@pytest.mark.parametrize("harm", HARMS)
def test_a_checkpoint_that_means_harm_costs_a_line(cli, workplace, harm):
    HARMS[harm]()
    refuse(cli, "bad.ckpt", PREDICT)


@pytest.mark.parametrize("harm", ["code", "settings that multiply", "images trained on", "no classes"])
def test_no_command_suffers(cli, workplace, harm):
    HARMS[harm]()
    refuse(cli, "bad.ckpt", *COMMANDS)
    code, _, err = cli("fit", "--model.weights", "bad.ckpt", "--data.val_size", 100)
    assert (code, err.count("\n")) == (2, 1)
    assert "bad.ckpt is not a checkpoint of fmnist (" in err


def test_an_untrusted_optimizer_is_never_imported(cli, workplace):
    setting(optimizer={"class_path": "this.SGD"})  # which prints, when it is imported
    for args in (["test"], ["predict", "--output", "out.csv"], ["export", "--output", "out.onnx"], ["fit"]):
        _, out, err = cli(*args, "--ckpt_path", "bad.ckpt")
        assert "Beautiful is better than ugly" not in out
    assert "bad.ckpt was trained with model.optimizer this.SGD, not torch.optim." in err


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
    setting(optimizer={"class_path": "torch.optim.SGD", **described})
    code, out, err = cli("fit", "--ckpt_path", "bad.ckpt")
    assert code == 2
    assert "Beautiful is better than ugly" not in out + err


def test_a_good_checkpoint_is_read(workplace):
    torch.save(CHECKPOINT, "good.ckpt")
    model = ImageClassifier(hidden_dims=[4], class_names=["a", "b"])
    model.load_state_dict(read_checkpoint(workplace / "good.ckpt")["state_dict"])
