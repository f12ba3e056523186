"""Files that are made to take all memory or hours: refused in a line, at once, before they become that."""

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fmnist.data.jpeg import MAX_SCANS, count_scans
from fmnist.data.read import read_picture
from fmnist.data.sources import parquet
from fmnist.limits import check_size
from fmnist.runs.settings import read_settings
from fmnist.sweep.plan import read_plan
from tests.fuzz import CHECKPOINT, shared

SECONDS = 2.0


@pytest.fixture
def refused(workplace, cli):
    """Runs a command, and returns the one line in which it refuses its file, in time."""

    def run(*args):
        start = time.process_time()
        code, _, err = cli(*args)
        assert (code, err.count("\n")) == (2, 1)
        assert time.process_time() - start < SECONDS
        return err

    cli("prepare", "--help")  # what is imported once is no file's fault
    return run


# --- YAML -------------------------------------------------------------------------------------------

P = 2**61 - 1  # its multiples have the hash 0
YAML = {
    "merge keys": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
    "many merge keys": "b: &b {x: 1}\na:\n" + "  <<: *b\n" * 90_000,
    "a merge key by its tag": "b: &b {x: 1}\na: {!!merge x: *b}",
    "aliases that double": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
    "many aliases": f"a: &a [{'x,' * 200}]\nb: [{'*a,' * 9000}]",
    "an anchor twice": "a: &a [x]\nb: &a [*a]",
    "keys that collide": "".join(f"{n * P}: 1\n" for n in range(1, 35_000)),
    "base 60": "a: 1" + ":1" * 400_000,
    "base 60, tagged": f'a: !!int "1{":1" * 400_000}"',
    "empty lists": f"a: [{'[],' * 330_000}]",
    "documents": "--- a\n" * 160_000,
    "a million digits": "a: " + "9" * 990_000,
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_costs_no_time(refused, cli, workplace, name):
    run = workplace / "logs" / "version_0"
    run.mkdir(parents=True)
    assert len(YAML[name]) <= 1_000_000
    (run / "config.yaml").write_text(YAML[name])
    assert "is not a configuration: " in refused("fit", "--config", run / "config.yaml")
    assert "is not the file of a sweep: " in refused("sweep", run / "config.yaml")
    code, out, _ = cli("compare", "logs")
    assert code == 0
    assert "broken: " in out


def test_yaml_as_people_write_it(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "a: &a [1e-4, 1E5, -3e+2, 1.5e-3, 7, 0x1F]\nb: [*a, *a]\nc: 2026-01-01\nd: 20260101012345678901 bags\n"
        'e: "12345678901234567890"\nf: <<text\ng: "<<"\n'
    )
    numbers = [0.0001, 100000.0, -300.0, 0.0015, 7, 31]
    found = read_settings(tmp_path / "c.yaml")
    assert found == {
        **{"a": numbers, "b": [numbers, numbers], "c": "2026-01-01", "d": "20260101012345678901 bags"},
        **{"e": "12345678901234567890", "f": "<<text", "g": "<<"},
    }
    assert all(isinstance(value, float) for value in found["a"][:4])


def test_a_range_of_a_sweep_may_be_written_with_an_exponent(tmp_path):
    (tmp_path / "base.yaml").write_text("seed_everything: 1\n")
    search = "search: {model.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}}\nsampler: random\ntrials: 2\n"
    (tmp_path / "sweep.yaml").write_text(f"config: base.yaml\n{search}")
    space = read_plan(tmp_path / "sweep.yaml").search["model.optimizer.lr"]
    assert (space.low, space.high) == (1e-4, 1e-1)


# --- Parquet ----------------------------------------------------------------------------------------

PARQUET = ("prepare", "--data.source", "Parquet", "--data.source.path", "bomb.parquet")


def bomb(image, label, about=b""):
    """Writes a Parquet file; its metadata make it longer than its rows are many."""
    table = pa.table({"image": image, "label": label})
    pq.write_table(table.replace_schema_metadata({b"huggingface": about, b"x": os.urandom(4000).hex()}), "bomb.parquet")


def repeat(value, count):
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


@pytest.mark.parametrize("column", ["pictures", "labels"])
def test_parquet_that_grows_two_millionfold(refused, column):
    large, small = repeat(bytes(1_000_000), 2000), [0, 1] * 1000
    names = repeat("x" * 1_000_000, 2000)
    bomb(*((large, small) if column == "pictures" else ([b"x"] * 2000, names)), b"{}")
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    assert Path("bomb.parquet").stat().st_size < 120_000
    assert "its pictures are too many or too large for its size" in refused(*PARQUET)
    assert pool.max_memory() - before < 200_000_000


def test_parquet_of_too_many_rows(refused):
    bomb(repeat(b"x", 5_000_000), pa.array(np.zeros(5_000_000, np.int8)), b"{}")
    assert Path("bomb.parquet").stat().st_size < 120_000
    assert "5,000,000 rows" in refused(*PARQUET)


def test_parquet_whose_metadata_lie(refused, monkeypatch):
    monkeypatch.setattr(parquet, "SPARE", 1_000_000)
    bomb([bytes(5_000_000)], [0], b"{}")
    size = pq.read_metadata("bomb.parquet").row_group(0).column(0).total_uncompressed_size * 2  # as Thrift writes it
    digits = bytes([*((size >> 7 * digit) & 127 | 128 for digit in range(3)), size >> 21])
    content = Path("bomb.parquet").read_bytes()
    assert content.count(digits) == 1
    Path("bomb.parquet").write_bytes(content.replace(digits, b"\x82\x80\x80\x00"))
    assert pq.read_metadata("bomb.parquet").row_group(0).column(0).total_uncompressed_size == 1
    before = pa.default_memory_pool().max_memory()
    assert "1 rows of 5 MB are too much for its size" in refused(*PARQUET)
    assert pa.default_memory_pool().max_memory() == before, "nothing was decoded"


@pytest.mark.parametrize(
    ("image", "label", "about", "message"),
    [
        ([b"x"], [0], b"[" * 100_000, "recursion"),
        ([b"x"], [0], b'{"info":' * 100_000, "recursion"),
        ([b"x"], [0], b'{"a": "' + b"x" * 1_000_000 + b'"}', "metadata are too large"),
        ([[b"x"] * 100], [0], b"{}", "the bytes are missing: it holds list"),
        ([b"x"], [[0] * 100], b"{}", "the column label holds no labels but list"),
        ([b"x"], pa.array([b"y" * 100], pa.binary(100)), b"{}", "holds no labels but fixed_size_binary"),
    ],
)
def test_parquet_of_odd_forms(refused, image, label, about, message):
    bomb(image, label, about)
    assert message in refused(*PARQUET)


@pytest.mark.signals
def test_a_pipe_is_no_parquet_file(refused):
    Path("data").mkdir()
    os.mkfifo("data/train.parquet")
    args = (*PARQUET[:-1], "data")
    assert "train.parquet is not a file" in refused(*args)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_parquet_as_people_have_it(tmp_path, version, compression):
    contents = [os.urandom(200) for _ in range(500)]
    path = tmp_path / "t.parquet"
    for image in (pa.array(contents), pa.array([{"bytes": content, "path": None} for content in contents])):
        table = pa.table({"image": image, "label": pa.array(["a", "b"] * 250).dictionary_encode()})
        pq.write_table(table, path, compression=compression, data_page_version=version, data_page_size=900)
        pictures, labels, _ = parquet._read_parquet(path, (None, None))
        assert [picture.content for picture in pictures] == contents
        assert labels == ["a", "b"] * 250


# --- tables -----------------------------------------------------------------------------------------


def table(path):
    return ("prepare", "--data.source=CSV", f"--data.source.annotations_file={path}", "--data.source.img_dir=.")


@pytest.mark.signals
def test_tables_are_files_of_a_size(refused):
    os.mkfifo("pipe.csv")
    with Path("large.csv").open("wb") as file:
        file.truncate(200_000_000_000)
    assert "pipe.csv is not a table in CSV (pipe.csv is not a file)" in refused(*table("pipe.csv"))
    assert "(zero is not a file)" in refused(*table("/dev/zero"))
    assert "(large.csv is larger than 100 MB)" in refused(*table("large.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n" + "," * 6_000_000, "more than 5,000,000 cells"),
        ("\n" * 6_000_000, "more than 5,000,000 cells"),
        ("file,label\na.png,b" + "," * 400_000, "line 2: there is no file"),
    ],
)
def test_tables_of_many_cells(refused, text, message):
    ends = text.startswith("file") and not text.startswith("file,label\n,")
    Path("t.csv").write_text(text.replace("label\n", "label" + "," * 400_000 + "\n") if ends else text)
    assert message in refused(*table("t.csv"))


# --- pictures ---------------------------------------------------------------------------------------


def jpeg(size=(64, 64), **options):
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, "JPEG", **options)
    return file.getvalue()


def add_scans(content, count):
    """Repeats the last scan of a progressive JPEG."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def exif():
    """Data of a camera with a thumbnail in it, which has scans of its own."""
    return b"Exif\0\0" + jpeg(progressive=True) * 9


@pytest.fixture
def predict(refused):
    """Has a model classify a file that cannot be read."""
    torch.save(CHECKPOINT, "best.ckpt")

    def run(name, content):
        Path(name).write_bytes(content)
        return refused("predict", "--ckpt_path", "best.ckpt", "--images", name)

    return run


def test_jpeg_of_many_scans(predict):
    content = jpeg(progressive=True)
    for count in (MAX_SCANS, 5000):
        assert "takes too long to decode: it has more than 64 scans" in predict("a.jpg", add_scans(content, count))
    bent = content[:2] + b"\xff\xfe\x00\x00" + content[2:]  # a length that is less than its own, as libjpeg takes it
    assert "more than 64 scans" in predict("a.jpg", add_scans(bent, MAX_SCANS))
    assert "segments" in predict("a.jpg", content[:2] + b"\xff\xfe\x00\x02" * 4_000_000 + content[2:])


def test_jpeg_that_is_large_for_its_scans(predict):
    for scans, side, options in ((40, 7000, {}), (10, 13_000, {"subsampling": 0})):
        content = add_scans(jpeg(progressive=True, **options), scans - 10)
        head = content.index(b"\xff\xc2")
        content = content[: head + 5] + struct.pack(">HH", side, side) + content[head + 9 :]
        assert f"{side} x {side} pixels, too many for a JPEG of {scans} scans" in predict("a.jpg", content)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"exif": exif()}])
def test_scans_are_counted(options):
    content = jpeg(**options)
    assert count_scans(io.BytesIO(content)) == (10 if "progressive" in options else 1)
    assert read_picture(io.BytesIO(add_scans(content, 3) if "progressive" in options else content)).image.any()


def test_deep_pictures_take_no_copies(tmp_path):
    for values in (np.random.default_rng(0).random((2000, 2000), np.float32), np.arange(4_000_000, dtype=np.int32)):
        Image.fromarray(values.reshape(2000, 2000)).save(tmp_path / "deep.tif")
        tracemalloc.start()
        read_picture(tmp_path / "deep.tif")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40_000_000, "the picture has 16 MB, its copies would have 60 and more"


def test_tiles_that_are_larger_than_the_picture(predict):
    content, side = zlib.compress(bytes(8000 * 8000)), 8000
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content
    assert "tiles of more than 50 million pixels" in predict("a.tif", tiff)


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
