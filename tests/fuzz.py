"""Hostile files by the thousand: every reader either reads them or refuses them with the declared error.

    python -m tests.fuzz [--inputs 10000] [TARGET ...]

Hypothesis damages real files and makes up others. Of each input it is checked that nothing but the
declared error came out, that it took at most two seconds of a processor, that no process was started, and that nothing
was opened for writing outside a folder for the purpose; of each target, that memory grew by less than 1 GiB.
The test suite runs 200 inputs for each.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from fmnist import CSV, ImageClassifier, ImageFolder, Parquet, load
from fmnist.cli.compare import format_csv, format_text, list_runs
from fmnist.data.photos import PictureError
from fmnist.data.read import read_picture
from fmnist.data.saved import SOURCES, read_data_settings
from fmnist.data.sources import download
from fmnist.errors import UserError
from fmnist.runs.checkpoint import read_checkpoint
from fmnist.runs.folder import find_checkpoints
from fmnist.runs.tensor_file import pack
from fmnist.sweep.plan import read_plan
from fmnist.sweep.trials import read_trials

SECONDS, BYTES = 2.0, 2**30
REFUSED = (UserError, PictureError, OSError)  # the command line turns an OSError into one line as well


class Target(NamedTuple):
    """A reader and what it is given."""

    cases: SearchStrategy[Any]
    read: Callable[[Path, Any], object]
    """Writes a case into an empty folder and reads it."""


class Report(NamedTuple):
    """What came of a target's inputs."""

    inputs: int
    accepted: int
    slowest: float
    """Seconds."""
    growth: int
    """Bytes by which the peak of the memory has grown."""


def fuzz(name: str, inputs: int, same: bool = False) -> Report:
    """Runs a target, and raises an ``AssertionError`` or what a reader has let out.

    Args:
        name: One of ``TARGETS``.
        inputs: How many.
        same: The same inputs each time.
    """
    target = TARGETS[name]
    taken: list[bool] = []
    slowest = 0.0
    before = _peak()
    top = Path(tempfile.mkdtemp()).resolve()
    os.environ["FMNIST_CACHE"] = str(top / "cache")
    os.environ["FMNIST_DATA"] = str(top / "none")

    checks = list(HealthCheck)

    @settings(max_examples=inputs, derandomize=same, deadline=None, database=None, suppress_health_check=checks)
    @given(target.cases)
    def once(case: Any) -> None:
        nonlocal slowest
        shutil.rmtree(top)
        (top / "work").mkdir(parents=True)
        start = time.process_time()
        refusal = "accepted"
        AUDIT.begin(top)
        try:
            target.read(top / "work", case)
        except REFUSED as error:
            refusal = str(error)
        finally:
            AUDIT.end()
        assert refusal, "an error without a word"
        taken.append(refusal == "accepted")
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        assert not AUDIT.violations, AUDIT.violations
        assert seconds < SECONDS, f"an input took {seconds:.1f} s"

    try:
        once()
    finally:
        shutil.rmtree(top, ignore_errors=True)
    growth = _peak() - before
    assert growth < BYTES, f"memory grew by {growth / 1e6:.0f} MB"
    return Report(len(taken), sum(taken), slowest, growth)


def _peak() -> int:
    import resource  # Windows has none, and tests take other things from here

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Audit:
    """Watches for processes that are started, and files that are opened for writing outside a folder."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.violations: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self, folder: Path) -> None:
        """Watches from here on."""
        self.violations.clear()
        self.folder = str(folder)

    def end(self) -> None:
        """Stops watching."""
        self.folder = None

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
            self.violations.append(f"{event} {args}")
        elif event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            path = os.path.realpath(args[0])
            if writes and not path.startswith((self.folder, "/dev/", "/proc/")):
                self.violations.append(f"open {args}")


AUDIT = Audit()

# --- damage -------------------------------------------------------------------------------------

Edits = list[tuple[str, int, bytes]]
positions = st.one_of(st.integers(0, 64), st.integers(0, 10**6))
edits: SearchStrategy[Edits] = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "cut"]), positions, st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=5,
)


def damage(content: bytes, changes: Edits) -> bytes:
    """Changes a file here and there."""
    for kind, position, new in changes:
        at = position % (len(content) + 1)
        if kind == "set":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "insert":
            content = content[:at] + new + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + len(new) :]
        else:
            content = content[:at]
    return content


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
names = names.filter(lambda name: name not in (".", ".."))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)

# --- IDX files ----------------------------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


_random = np.random.default_rng(0)
IDX = {
    f"{part}-{kind}": _idx(_random.integers(0, high, shape))
    for part, size in (("train", 20), ("t10k", 10))
    for kind, high, shape in (("images-idx3-ubyte", 256, (size, 28, 28)), ("labels-idx1-ubyte", 10, (size,)))
}


class SmallFashionMNIST(download.VerifiedFashionMNIST):
    """The reader of the real files, which expects small ones."""

    files = {name: (len(content), hashlib.md5(content).hexdigest()) for name, content in IDX.items()}  # noqa: RUF012


def read_idx(folder: Path, case: tuple[str, Edits, bool, bool]) -> None:
    """Reads a set of four files, one of them damaged."""
    name, changes, zipped, keep_size = case
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for other, content in IDX.items():
        if other != name:
            (raw / other).write_bytes(content)
    content = damage(IDX[name], changes)
    if keep_size:
        content = content[: len(IDX[name])].ljust(len(IDX[name]), b"\0")
    (raw / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content, 1) if zipped else content)
    data = SmallFashionMNIST(folder, train=name.startswith("train"), download=False)
    part = name.split("-")[0]
    assert data.data.numpy().tobytes() == IDX[f"{part}-images-idx3-ubyte"][16:]
    assert bytes(data.targets.tolist()) == IDX[f"{part}-labels-idx1-ubyte"][8:]


# --- pictures -----------------------------------------------------------------------------------


def _picture(form: str, mode: str) -> bytes:
    file = io.BytesIO()
    pixels = Image.fromarray(_random.integers(0, 256, (40, 30, 3)).astype(np.uint8))
    (pixels.convert("I") if mode == "I;16" else pixels).convert(mode).save(file, form)
    return file.getvalue()


PICTURES = [
    _picture(form, mode)
    for form, modes in {
        "PNG": ("L", "RGB", "RGBA", "P", "1", "I;16", "LA"),
        "JPEG": ("L", "RGB", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("L", "RGB", "1", "P"),
        "GIF": ("P", "L"),
        "TIFF": ("L", "RGB", "CMYK", "F", "I;16", "1"),
    }.items()
    for mode in modes
]


def read_one_picture(folder: Path, content: bytes) -> None:
    """Converts a picture, from a file and from memory."""
    (folder / "picture").write_bytes(content)
    image = read_picture(folder / "picture").image
    assert (image.shape, image.dtype) == ((1, 28, 28), torch.uint8)
    assert torch.equal(read_picture(io.BytesIO(content)).image, image)


# --- checkpoints --------------------------------------------------------------------------------


class Call:
    """A call of a function when it is unpickled; torch's own reader allows some that take any amount of memory."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.called = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


CODE = Call(os.system, "touch executed")


def shared(part: Any, levels: int = 12) -> Any:
    """Returns lists that hold each other, ten times at each level."""
    for _ in range(levels):
        part = [part] * 10
    return part


def _checkpoint() -> dict[str, Any]:
    model = ImageClassifier(hidden_dims=[4], class_names=["a", "b"])
    return {
        "state_dict": dict(model.state_dict()),
        "hyper_parameters": dict(model.hparams),
        "epoch": 3,
        "conversion": {"name": "distance", "transform": None},
        "global_step": 30,
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


def _save(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


CHECKPOINT = _checkpoint()
SAVED = _save(CHECKPOINT)
torch.load(io.BytesIO(SAVED), weights_only=True)  # the first call imports for seconds, which is no input's fault
odd_values = st.sampled_from(
    [
        *(None, "", "x", -1, 10**6, 10**30, 1e308, float("nan"), [], {}, [None], {"a": 1}, True, b"x"),
        *(torch.zeros(()), torch.full((4, 784), float("nan")), torch.zeros(1).expand(10**6, 784)),
        *(torch.zeros(3, dtype=torch.complex64), torch.zeros(0), torch.zeros(4, 784).to_sparse(), [10**6], [4, 4]),
        *([-4], ["4"], [4.0], ["a"] * 10**4, "os.system", {"class_path": "os.system", "init_args": {"x": 1}}, CODE),
        *(shared("x"), shared({"a": ()}), shared("x" * 10**5, 3), Call(bytearray, 10**9), Call(set, [1, 2])),
        *({"Timer": {"time_elapsed": torch.zeros(1).expand(10**9)}}, {"split": "\ud800"}, {"name": 5}),
        *({"trained_on": torch.zeros(1, dtype=torch.int64).expand(10**9)}, [torch.zeros(10**4)] * 10**4),
    ]
)
entries = [(key,) for key in (*CHECKPOINT, "typicality", "FashionMNISTDataModule")] + [
    (part, key) for part in ("state_dict", "hyper_parameters") for key in CHECKPOINT[part]
]
replaced = st.lists(st.tuples(st.sampled_from(entries), odd_values), min_size=1, max_size=3)


def replace(changes: list[tuple[tuple[str, ...], Any]]) -> bytes:
    """Saves a checkpoint with other values here and there."""
    changed: Any = {key: dict(value) if isinstance(value, dict) else value for key, value in CHECKPOINT.items()}
    for (*outer, key), value in changes:
        inner = changed[outer[0]] if outer else changed
        if isinstance(inner, dict):
            inner[key] = value
    return _save(changed)


checkpoints = st.one_of(
    edits.map(lambda changes: damage(SAVED, changes)),
    replaced.map(replace),
    odd_values.map(_save),
    odd_values.map(lambda value: pickle.dumps({"state_dict": {}, "hyper_parameters": {"hidden_dims": value}})),
    st.binary(max_size=200),
)


PACKED = pack(CHECKPOINT)
HEADER = json.loads(PACKED[8 : 8 + int.from_bytes(PACKED[:8], "little")])
DESCRIBED = json.loads(HEADER["__metadata__"]["fmnist"])
tensor = ("state_dict/network.1.weight",)
headers = st.lists(
    st.tuples(
        st.sampled_from([(), ("new",), tensor, *((*tensor, key) for key in ("dtype", "shape", "data_offsets"))])
        | st.sampled_from([("described",), *(("described", key) for key in (*DESCRIBED, "typicality", "callbacks"))])
        | st.sampled_from([("described", "hyper_parameters", key) for key in DESCRIBED["hyper_parameters"]]),
        json_values | st.sampled_from([[0] * 10**4, 2**70, [2**31, 2**31], [0, 2**62], ["a"] * 3, "F64", "x" * 10**6]),
    ),
    min_size=1,
    max_size=3,
)


def repack(changes: list[tuple[tuple[str, ...], Any]]) -> bytes:
    """Writes a file of safetensors with other values here and there of its header."""
    header: Any = {**json.loads(json.dumps(HEADER)), "described": json.loads(json.dumps(DESCRIBED))}
    for keys, value in changes:
        inner: Any = header
        for key in keys[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and keys:
            inner[keys[-1]] = value
    described = header.pop("described")
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["fmnist"] = json.dumps(described)
    return repeat(json.dumps(header).encode())


def repeat(header: bytes, length: int | None = None) -> bytes:
    """Puts another header before the tensors."""
    size = len(header) if length is None else length
    return size.to_bytes(8, "little") + header + PACKED[8 + int.from_bytes(PACKED[:8], "little") :]


tensor_files = st.one_of(
    edits.map(lambda changes: damage(PACKED, changes)),
    headers.map(repack),
    st.tuples(st.binary(max_size=50), st.integers(0, 2**64 - 1)).map(lambda case: repeat(*case)),
    json_values.map(lambda value: repeat(json.dumps(value).encode())),
    st.sampled_from([b"[" * 10**6, b'{"a":' * 10**5, b"9" * 10**6, b"[" + b"0," * 4 * 10**5 + b"0]"]).map(repeat),
    st.sampled_from([b"".ljust(2 * 10**6), SAVED, b""]).map(repeat),
    st.just(SAVED),
)


def read_one_checkpoint(folder: Path, content: bytes, name: str = "any.ckpt") -> None:
    """Loads a checkpoint as the commands do, and as Python does, and classifies."""
    path = folder / name
    path.write_bytes(content)
    read_checkpoint(path)
    prediction = load(path).classify(np.zeros((28, 28), np.uint8))
    assert not isinstance(prediction, list)
    assert prediction.name in ("a", "b")


# --- run folders --------------------------------------------------------------------------------

parts = st.sampled_from(
    [
        *("lightning_logs", "version_0", "version_1", "version_01", "version_-1", "version_٣", "version_", "x"),
        *("version_99999999999999999999", "version_" + "9" * 200),
        *("checkpoints", "best.ckpt", "last.ckpt", "config.yaml"),
    ]
)
usual = st.tuples(
    st.just("lightning_logs"),
    st.sampled_from(["version_0", "version_1"]),
    st.sampled_from(["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "checkpoints"]),
).map(list)
nodes = st.tuples(
    usual | st.lists(parts, min_size=1, max_size=4), st.sampled_from(["file", "folder", "loop", "dead", "pipe"])
)
specs = st.one_of(
    st.sampled_from([None, "best", "last"]),
    st.text(max_size=30),
    st.text(max_size=8).map(lambda name: f"~{name}"),
    st.lists(parts, max_size=4).map("/".join),
    st.just("x" * 5000),
)


def make_tree(top: Path, tree: list[tuple[list[str], str]]) -> None:
    """Makes files, folders, links and pipes."""
    for names, kind in tree:
        path = top.joinpath(*names)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                continue
            if kind == "file":
                path.write_text("data: {batch_size: 4}\n")
            elif kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to(path if kind == "loop" else "nowhere")
        except OSError:
            continue  # there is something else


def resolve(folder: Path, case: tuple[list[tuple[list[str], str]], str | None, bool]) -> None:
    """Finds a checkpoint among odd folders."""
    tree, spec, to_continue = case
    make_tree(folder, tree)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for found in find_checkpoints([spec] if spec else [], folder, to_continue):
            assert found.is_file() or to_continue
    finally:
        os.chdir(before)


# --- own pictures -------------------------------------------------------------------------------

PNG = PICTURES[1]
cells = st.one_of(
    st.sampled_from(["a.png", "b.png", "none.png", "../a.png", "/etc/passwd", "", ".", "0", "1", "-1", "\0", '"']),
    st.text(max_size=10),
)
tables = st.one_of(
    st.binary(max_size=100),
    st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")),
    st.lists(st.lists(cells, min_size=1, max_size=3), max_size=12).map(
        lambda rows: "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass")
    ),
    st.lists(st.tuples(st.sampled_from(["a.png", "b.png"]), cells), min_size=4, max_size=12).map(
        lambda rows: "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass")
    ),
    st.just(b'"' + b"x" * 200_000),
    st.just(b"a.png,0\nb.png,0\nc.png,1\nd.png,1\n"),  # is read, if the share leaves one picture to test on
)
shares = st.sampled_from([0, 0.2, 0.5, 1, 3, 1.5, 10**9, float("nan")])


def _load_source(source: Any) -> None:
    images, labels = source.load(train=True)
    assert images.shape == (len(labels), 1, 28, 28)
    assert int(labels.min()) >= 0
    assert int(labels.max()) < len(source.class_names)
    source.load(train=False)


def read_csv(folder: Path, case: tuple[bytes, Any, bool]) -> None:
    """Reads a table of pictures."""
    content, share, with_names = case
    (folder / "table.csv").write_bytes(content)
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        Image.frombytes("L", (28, 28), random.Random(number).randbytes(28 * 28)).save(folder / name)
    table = str(folder / "table.csv")
    _load_source(CSV(table, str(folder), test_size=share, label_names=["x", "y"] if with_names else None))


def read_folder(folder: Path, case: tuple[list[tuple[list[str], int]], Any]) -> None:
    """Reads a folder of pictures."""
    tree, share = case
    contents = (PNG, b"", PNG[:60], PICTURES[9])
    for names, kind in tree:
        path = folder.joinpath(*names)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.png").write_bytes(contents[kind] + str(path).encode(errors="replace"))
        except OSError:
            continue
    _load_source(ImageFolder(str(folder), test_size=share))


def _table(images: Any, labels: Any, about: bytes) -> bytes:
    try:
        table = pyarrow.table({"image": images, "label": labels}).replace_schema_metadata({b"huggingface": about})
    except (pyarrow.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        return b""
    file = io.BytesIO()
    try:
        pyarrow.parquet.write_table(table, file)
    except pyarrow.ArrowException:
        return b""
    return file.getvalue()


def _about(value: Any) -> bytes:
    return json.dumps({"info": {"features": {"label": {"names": value}}}}).encode(errors="replace")


PAGES = [PNG + bytes([number]) for number in range(6)]  # the same picture in files that differ
GOOD = _table([{"bytes": page, "path": None} for page in PAGES], [0, 1] * 3, _about(["x", "y"]))
labels = st.lists(st.one_of(st.integers(-2, 3), st.none()), min_size=6, max_size=6) | st.just(["x", "y"] * 3)
labels |= st.lists(st.text(max_size=3), min_size=6, max_size=6) | st.lists(st.floats(), min_size=6, max_size=6)
parquets = st.one_of(
    edits.map(lambda changes: damage(GOOD, changes)),
    st.tuples(labels, json_values).map(
        lambda case: _table([{"bytes": page} for page in PAGES], case[0], _about(case[1]))
    ),
    st.tuples(labels, json_values).map(
        lambda case: _table(PAGES, case[0], json.dumps(case[1]).encode(errors="replace"))
    ),
    st.sampled_from([[None] * 6, [b"x"] * 6, [{"bytes": None}] * 6, ["text"] * 6, [1] * 6]).map(
        lambda images: _table(images, [0, 1] * 3, b"{}")
    ),
)


def read_parquet(folder: Path, content: bytes) -> None:
    """Reads a Parquet file."""
    (folder / "train.parquet").write_bytes(content)
    _load_source(Parquet(str(folder)))


# --- compare ------------------------------------------------------------------------------------

CONFIG = b"seed_everything: 1\ntrainer: {max_epochs: 2}\nmodel: {hidden_dims: [4], lr: 1.0e-3}\ndata: {batch_size: 4}\n"
HISTORY = b"epoch,step,lr,train/loss,val/acc,val/loss\n1,2,0.1,2.0,0.5,1.0\n2,4,0.1,1.0,0.75,0.5\n"
TIMES = b"epoch,seconds\n1,2.0\n"
RESULTS = json.dumps(
    {"acc": 0.5, "ece": 0.1, "num_samples": 9, "digests": {"checkpoint": hashlib.sha256(b"x").hexdigest()}}
)
pieces = st.sampled_from(
    [
        *("a: ", "&a ", "*a", "- ", "? ", "---\n", *"[]{},|#=_~1é'\"\n\t "),
        *("!!python/object/apply:os.system ['touch executed']", "!!binary ", "!!set ", "0x", "9" * 5000, "1:", ".nan"),
        *("2001-01-01", "99999-99-99", "<<: ", '"\\uD800"', "\x1b[2J", "[" * 200, "- " * 200, "0b"),
        *("!!int ", "!!timestamp ", "!!float ", "!!omap ", "!!pairs ", "&a [*a]", "null", "model: ", "trainer: "),
        "max_epochs: ",
    ]
)
texts = st.one_of(
    st.lists(pieces, max_size=12).map(lambda chosen: "".join(chosen).encode(errors="surrogatepass")),
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode(errors="replace")),
)


def variants(content: bytes) -> SearchStrategy[bytes | None]:
    """A file, damaged or replaced or missing."""
    return st.one_of(st.just(content), st.none(), edits.map(lambda changes: damage(content, changes)), texts)


def compare_runs(folder: Path, case: tuple[bytes | None, ...]) -> None:
    """Compares a good run with an odd one, and writes the table in both formats."""
    for number, files in enumerate(((CONFIG, HISTORY, TIMES, RESULTS.encode()), case)):
        run = folder / f"version_{number}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "test").mkdir()
        (run / "checkpoints" / "best.ckpt").write_bytes(b"x")
        for name, content in zip(("config.yaml", "metrics.csv", "times.csv", "test/metrics.json"), files, strict=True):
            if content is not None:
                (run / name).write_bytes(content)
    rows = list_runs(folder)
    assert sorted(Path(row["run"]).name for row in rows) == ["version_0", "version_1"]
    good = next(row for row in rows if Path(row["run"]).name == "version_0")
    assert (good["status"], good["val/acc"], good["test/acc"]) == ("finished", 0.75, 0.5)
    text, table = format_text(rows), format_csv(rows)
    assert "version_1" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert len(list(csv.reader(io.StringIO(table)))) == 3


# --- what a checkpoint says of its data, and trials of a sweep ------------------------------------------------

odd_names = st.sampled_from(
    [
        *("os.system", "évil.attack", "fmnist.files.os.system", "init_args.target_transform", "class_path", "a b"),
        "best.ckpt",
    ]
)
plain_values = (
    json_values | odd_names | st.lists(odd_names, max_size=2) | st.dictionaries(odd_names, odd_names, max_size=2)
)
settings_of_data = st.dictionaries(
    st.sampled_from(["annotations_file", "img_dir", "transform", "target_transform", "root", "folder", "path"])
    | odd_names
    | st.text(max_size=5),
    plain_values,
    max_size=4,
)
CSV_SETTINGS = {"annotations_file": "a.csv", "img_dir": "."}
sources = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*SOURCES]) | odd_names | plain_values,
        "settings": settings_of_data | settings_of_data.map(lambda more: {**CSV_SETTINGS, **more}) | plain_values,
        "code": settings_of_data | st.just({}) | plain_values,
    }
)
GOOD_SPLIT = {"val_size": 5, "split_seed": 0, "class_map": {}, "fold": None}
splits = st.dictionaries(st.sampled_from([*GOOD_SPLIT]), plain_values, max_size=1)
good_source = st.just({"name": "CSV", "settings": CSV_SETTINGS, "code": {}})
descriptions = st.tuples(good_source | sources | plain_values, splits)


def read_data(folder: Path, case: tuple[Any, dict[str, Any]]) -> None:
    """Reads what a checkpoint says of its data: known classes, plain values, and nothing imported but these."""
    source, split = case
    found = read_data_settings({"data": {**GOOD_SPLIT, **split, "source": source}}, folder / "x.ckpt", {})
    assert found["data.source"]["class_path"].removeprefix("fmnist.") in SOURCES
    assert not [name for name in found["data.source"]["init_args"] if "transform" in name]
    json.dumps(found)


PLAN = {"config": "mlp.yaml", "search": {"data.shift": [0, 1], "model.dropout": [0.1, 0.2]}}
points = st.dictionaries(
    st.sampled_from(["config", "data.shift", "model.dropout", "model.network"]) | odd_names, plain_values, max_size=4
)
trials = st.one_of(
    points.map(lambda point: json.dumps({"name": None, "point": point}).encode(errors="replace")),
    st.tuples(plain_values, plain_values).map(
        lambda pair: json.dumps({"name": pair[0], "point": pair[1]}).encode(errors="replace")
    ),
    st.just(
        json.dumps({"name": None, "point": {"config": "mlp.yaml", "data.shift": 1, "model.dropout": 0.1}}).encode()
    ),
    json_values.map(lambda value: json.dumps(value).encode(errors="replace")),
    st.binary(max_size=60),
)


def read_trial(folder: Path, content: bytes) -> None:
    """Reads a trial of a sweep, which must lie in its plan."""
    (folder / "mlp.yaml").write_text("seed_everything: 1")
    (folder / "sweep.yaml").write_text(json.dumps({**PLAN, "config": str(folder / "mlp.yaml")}))
    plan = read_plan(folder / "sweep.yaml")
    (folder / "trial_000").mkdir()
    (folder / "trial_000/trial.json").write_bytes(content.replace(b'"mlp.yaml"', json.dumps(plan.config[0]).encode()))
    for trial in read_trials(folder, plan):
        assert trial.point in [*plan.grid()]


TARGETS = {
    "data": Target(descriptions, read_data),
    "trials": Target(trials, read_trial),
    "idx": Target(st.tuples(st.sampled_from([*IDX]), st.just([]) | edits, st.booleans(), st.booleans()), read_idx),
    "pictures": Target(
        st.tuples(st.sampled_from(PICTURES), edits).map(lambda case: damage(*case)) | st.binary(max_size=100),
        read_one_picture,
    ),
    "checkpoints": Target(checkpoints, read_one_checkpoint),
    "safetensors": Target(tensor_files, partial(read_one_checkpoint, name="any.safetensors")),
    "resolution": Target(st.tuples(st.lists(nodes, max_size=8), specs, st.booleans()), resolve),
    "csv": Target(st.tuples(tables, shares, st.booleans()), read_csv),
    "folders": Target(
        st.tuples(
            st.lists(st.tuples(st.lists(names, min_size=2, max_size=3), st.integers(0, 3)), max_size=8)
            | st.lists(st.tuples(st.tuples(st.sampled_from(["a", "b", "A"]), names).map(list), st.just(0)), max_size=8),
            shares,
        ),
        read_folder,
    ),
    "parquet": Target(parquets, read_parquet),
    "compare": Target(st.tuples(*map(variants, (CONFIG, HISTORY, TIMES, RESULTS.encode()))), compare_runs),
}


def main() -> None:
    """Runs the targets and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default all)")
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs for each (default 10,000)")
    args = parser.parse_args()
    if unknown := {*args.targets} - {*TARGETS}:
        parser.error(f"there is no target {', '.join(unknown)}: choose from {', '.join(TARGETS)}")
    warnings.simplefilter("ignore")  # remarks of libraries on odd files
    print("target        inputs   accepted   slowest   memory")
    for name in args.targets or TARGETS:
        report = fuzz(name, args.inputs)
        print(
            f"{name:12}{report.inputs:8,}{report.accepted:11,}{report.slowest:8.2f} s{report.growth / 1e6:6.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
