"""Checkpoints that are made to take time or memory: refused in a line, soon, with little memory."""

import io
import json
import os
import struct
import time
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fmnist import UserError, load
from fmnist.limits import check_size
from fmnist.runs.archive import read_archive
from fmnist.runs.tensor_file import pack
from tests.conftest import ROOT
from tests.fuzz import CHECKPOINT, SAVED

resource = pytest.importorskip("resource")  # Windows has none
pytestmark = pytest.mark.signals
COMMANDS = (
    ["predict", "--images", ROOT / "docs/boot.png"],
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


class Call:
    """What a function is called for, when it is unpickled."""

    def __init__(self, function, *given):
        self.called = function, given

    def __reduce__(self):
        return self.called


class Raw:
    """Takes the place of a pickler, and writes what it is given as it is."""

    def __init__(self, file, protocol):
        self.file = file

    def dump(self, content):
        self.file.write(content)


def saved(**changes):
    torch.save({**CHECKPOINT, **changes}, "bad.ckpt")


def setting(**changes):
    saved(hyper_parameters={**CHECKPOINT["hyper_parameters"], **changes})


def raw(content):
    torch.save(content, "bad.ckpt", pickle_module=SimpleNamespace(__name__="raw", Pickler=Raw))


def shared(part="x", levels=12):
    for _ in range(levels):
        part = [part] * 10
    return part


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


def appended():
    Path("bad.ckpt").write_bytes(SAVED)
    with zipfile.ZipFile("bad.ckpt", "a") as archive:
        archive.writestr("archive/data.pkl2", b"x")


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


def retold(header, **changes):
    told = {**json.loads(header["__metadata__"]["fmnist"]), **changes}
    header["__metadata__"]["fmnist"] = json.dumps(told)


FIRST = "state_dict/network.1.weight"
LOCATOR = SAVED[-42:-22]
HARMS = {
    # shared lists, which multiply as soon as somebody walks through them, prints them or copies them
    "settings that multiply": lambda: setting(dropout=shared()),
    "a long text that multiplies": lambda: setting(dropout=shared("x" * 100_000, 3)),
    "settings in a circle": lambda: raw(b"\x80\x02]q\0h\0a."),
    "a conversion that multiplies": lambda: saved(conversion={"name": shared(), "transform": None}),
    "a record of the data that multiplies": lambda: saved(**{DATA: {"split": shared()}}),
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
    # archives that torch does not write
    "something behind the end": lambda: Path("bad.ckpt").write_bytes(SAVED + b"x"),
    "a comment": lambda: Path("bad.ckpt").write_bytes(SAVED[:-2] + b"\5\0hello"),
    "something before the beginning": lambda: Path("bad.ckpt").write_bytes(b"x" + SAVED),
    "a second directory": lambda: edited((LOCATOR, LOCATOR[:8] + struct.pack("<Q", 64) + LOCATOR[16:], 1)),
    "another name in its place": lambda: edited((b"archive/data/1", b"archive/data/7", 1)),
    "a part that torch does not write": appended,
    "a weight that has changed": lambda: edited(
        (CHECKPOINT["state_dict"]["network.1.bias"].numpy().tobytes(), b"\0" * 16, 1)
    ),
    "a tensor of more than is stored": lambda: repickled(b"M@\x0c", b"M\xff\xff"),
    # tensors that are larger than they are stored
    "images trained on": lambda: saved(**{DATA: {"trained_on": WIDE}}),
    "a state of the optimizer": lambda: saved(optimizer_states=[{"state": {0: {"momentum_buffer": WIDE}}}]),
    "a state of a callback": lambda: saved(callbacks={"EarlyStopping": {"best_score": WIDE}}),
    "typicality": lambda: saved(typicality={"levels": torch.zeros(1).expand(10**9)}),
    "layers in one place": tied_layers,
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
    "weights that overflow": lambda: saved(
        state_dict={**CHECKPOINT["state_dict"], "network.1.weight": torch.full((4, 784), 3e38)}
    ),
}
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
    "tensors in one place": lambda: repacked(lambda header: header.update({"typicality/levels": header[FIRST]})),
    "a gap": lambda: repacked(lambda header: header.pop(FIRST)),
    "the same name twice": lambda: packed(b'{"a": 1, "a": 2}'),
    "half a letter": lambda: repacked(
        lambda header: retold(
            header, hyper_parameters={**CHECKPOINT["hyper_parameters"], "class_names": ["a", "\ud800"]}
        )
    ),
    "many settings": lambda: repacked(
        lambda header: retold(header, hyper_parameters={**CHECKPOINT["hyper_parameters"], "dropout": [0] * 20_000})
    ),
    "a weight that is no tensor": lambda: repacked(lambda header: retold(header, state_dict={"network.1.weight": 1})),
    "a conversion that is a number": lambda: repacked(lambda header: retold(header, conversion=5)),
}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refuse(cli, name, *commands):
    """Checks that commands refuse a file in a short line, in little time, and write nothing."""
    before, memory = sorted(Path.cwd().iterdir()), peak()
    for words in commands:
        start = time.process_time()
        code, out, err = cli(*words, "--ckpt_path", name)
        assert time.process_time() - start < 2
        assert (code, out) == (2, "")
        assert err.startswith(f"fmnist: error: {name} is not a checkpoint of fmnist (")
        assert (err.count("\n"), len(err) < 400) == (1, True)
    with pytest.raises(UserError, match=rf"^{name} is not a checkpoint of fmnist \("):
        load(name)
    assert peak() - memory < 200e6
    assert sorted(Path.cwd().iterdir()) == before


@pytest.mark.parametrize("harm", HARMS)
def test_a_checkpoint_that_means_harm_costs_a_line(cli, workplace, harm):
    HARMS[harm]()
    refuse(cli, "bad.ckpt", COMMANDS[0])


@pytest.mark.parametrize("harm", SAFETENSORS)
def test_a_file_of_safetensors_that_means_harm_costs_a_line(cli, workplace, harm):
    SAFETENSORS[harm]()
    refuse(cli, "bad.safetensors", COMMANDS[0])


@pytest.mark.parametrize(
    "harm", ["settings that multiply", "a gigabyte of nothing", "a second directory", "images trained on", "no classes"]
)
def test_no_command_suffers(cli, workplace, harm):
    HARMS[harm]()
    refuse(cli, "bad.ckpt", *COMMANDS)
    code, _, err = cli("fit", "--model.weights", "bad.ckpt", "--data.val_size", 100)
    assert (code, err.count("\n")) == (2, 1)
    assert "bad.ckpt is not a checkpoint of fmnist (" in err


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "pipe.ckpt", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is not a file"):
            read_archive(path)


def test_a_file_of_200_gb_that_holds_nothing_is_not_read(tmp_path):
    with (tmp_path / "sparse.ckpt").open("wb") as file:
        file.truncate(200 * 10**9)
    start = time.process_time()
    with pytest.raises(ValueError, match="is larger than 4,295 MB"):
        read_archive(tmp_path / "sparse.ckpt")
    assert time.process_time() - start < 1


def test_values_are_counted_as_often_as_they_are_reached():
    check_size({"a": [1, (2, {3})], "b": None})
    check_size([["x"] * 100] * 99)
    circle = []
    circle.append(circle)
    for value, message in (
        ([["x"] * 100] * 100, "too many"),
        (shared("", 12), "too many"),
        (["x" * 1000] * 1000, "too many"),
        ({str(n): n for n in range(5000)}, "too many"),
        (circle, "too deeply"),
        ([2**2000], "too long"),
    ):
        with pytest.raises(ValueError, match=message):
            check_size(value)
