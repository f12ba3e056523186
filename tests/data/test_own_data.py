"""Own pictures: folders, tables and Parquet files, made of the real images and of mistakes."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from fmnist import CSV, FashionMNISTDataModule, ImageClassifier, ImageFolder, Parquet, TorchVision, UserError, load
from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.data.sources.source import Source
from tests.conftest import idx, spawn

COUNTS = {"train": 1500, "test": 300}


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="session")
def real(real_root):
    """Some of the real images and labels of both parts."""
    parts = {part: VerifiedFashionMNIST(real_root, train=part == "train") for part in COUNTS}
    return {part: (data.data[: COUNTS[part]], data.targets[: COUNTS[part]]) for part, data in parts.items()}


@pytest.fixture(scope="session")
def own(real, tmp_path_factory):
    """The same images in every layout. Returns the folder."""
    top = tmp_path_factory.mktemp("own")
    (top / "images").mkdir()
    (top / "parquet").mkdir()
    names = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={
            "huggingface": json.dumps({"info": {"features": {"label": {"names": VerifiedFashionMNIST.classes}}}})
        },
    )
    for part, (images, labels) in real.items():
        encoded = [png(image) for image in images.numpy()]
        rows = []
        for index, (content, label) in enumerate(zip(encoded, labels.tolist(), strict=True)):
            name = f"{part}{index:05}.png"
            folder = top / "folders" / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            (top / "images" / name).write_bytes(content)
            rows.append((name, label))
        with (top / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "label")] * (part == "test") + rows)
        for shard in range(2):
            half = slice(shard * len(rows) // 2, (shard + 1) * len(rows) // 2)
            table = {
                "image": [{"bytes": content, "path": None} for content in encoded[half]],
                "label": labels[half].tolist(),
            }
            pq.write_table(pa.table(table, schema=names), top / "parquet" / f"{part}-{shard:05}-of-00002.parquet")
    return top


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMNIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table(own, **options):
    paths = (str(own / "train.csv"), str(own / "images"), str(own / "test.csv"))
    return CSV(*paths, label_names=VerifiedFashionMNIST.classes, **options)


@pytest.mark.network
@pytest.mark.parametrize("part", ["train", "test"])
def test_every_layout_gives_the_tensors_of_the_original_files(own, real, part):
    images, labels = real[part]
    for source in (table(own), Parquet(str(own / "parquet"))):
        found = source.load(part == "train")
        assert torch.equal(found[0][:][:, 0], images)
        assert [source.class_names[label] for label in found[1]] == [
            VerifiedFashionMNIST.classes[label] for label in labels
        ]
    found = ImageFolder(str(own / "folders")).load(part == "train")
    order = labels.argsort(stable=True)
    assert torch.equal(found[0][:][:, 0], images[order])
    assert torch.equal(found[1], labels[order])


class Original(Source):
    """The same images, straight from the original files."""

    class_names = VerifiedFashionMNIST.classes

    def __init__(self, real):
        self.real = real

    def prepare(self):
        pass

    def load(self, train):
        images, labels = self.real["train" if train else "test"]
        return images.unsqueeze(1), labels


@pytest.mark.network
def test_the_same_images_in_the_same_order_give_the_same_weights(own, real):
    def fit(source):
        seed_everything(1, verbose=False)
        model = ImageClassifier(hidden_dims=[8], dropout=0.1)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **options)
        trainer.fit(model, FashionMNISTDataModule(source, val_size=300, flip=True))
        return torch.cat([value.flatten() for value in model.state_dict().values()])

    expected = fit(Original(real))
    assert torch.equal(fit(table(own)), expected)
    assert torch.equal(fit(Parquet(str(own / "parquet"))), expected)


@pytest.mark.network
def test_everything_works_on_own_classes(own, tmp_path, workplace, cli):
    """Two classes in folders without a test part: train, test, predict, export."""
    for name, label in (("bag", 8), ("boot", 9)):
        (workplace / "photos").mkdir(exist_ok=True)
        (workplace / "photos" / name).symlink_to(own / "folders" / "train" / str(label))
    words = (
        "--data.source=ImageFolder",
        "--data.source.folder=photos",
        "--data.val_size=0.1",
        "--model.class_weights=balanced",
    )
    code, _, err = cli("fit", *words, "--trainer.max_epochs=5", "--model.hidden_dims=[32]")
    assert (code, err) == (0, "")
    code, _, err = cli("test")
    assert (code, err) == (0, "")
    metrics = json.loads(Path("lightning_logs/version_0/test/metrics.json").read_text())
    assert [row["name"] for row in metrics["classes"]] == ["bag", "boot"]
    assert metrics["acc"] > 0.9
    assert metrics["num_samples"] == pytest.approx(0.2 * 300, abs=20)
    assert cli("predict", "--images", "photos/boot", "--output", "out.csv")[0] == 0
    assert cli("predict", "--output", "test.csv")[0] == 0
    with Path("test.csv").open() as file:
        assert all(Path(row["path"]).parent.name == row["actual"] for row in csv.DictReader(file))
    assert cli("export", "--output", "model.onnx")[0] == 0


@pytest.mark.network
@pytest.mark.parametrize("config", ["folder", "csv", "parquet"])
def test_configurations_for_own_pictures_work(own, workplace, cli, config):
    from tests.conftest import ROOT

    (workplace / "photos").symlink_to(own / "folders" if config == "folder" else own / "images")
    (workplace / "data").symlink_to(own / "parquet")
    (workplace / "labels.csv").write_text((own / "train.csv").read_text())
    path = ROOT / "configs" / f"{config}.yaml"
    assert len(path.read_text().splitlines()) <= 18
    size = "--data.source.image_size=16"
    code, _, err = cli("fit", "--config", path, size, "--trainer.max_epochs=1", "--model.network.width=2")
    assert (code, err) == (0, "")
    assert cli("test")[0] == 0
    code, out, err = cli("prepare", "--config", path, size)
    assert (code, err) == (0, "")
    assert ", 3, 16, 16)" in out


def test_a_hundred_classes_and_one_with_a_single_picture(tmp_path):
    random = np.random.default_rng(0)
    for label in range(100):
        folder = tmp_path / "many" / f"{label}"
        folder.mkdir(parents=True)
        for number in range(1 if label == 7 else 4):
            (folder / f"{number}.png").write_bytes(png(random.integers(0, 99, (28, 28), dtype=np.uint8)))
    data = FashionMNISTDataModule(ImageFolder(str(tmp_path / "many"), test_size=100), val_size=0.25)
    data.prepare_data()
    data.setup()
    assert data.class_names == [str(label) for label in range(100)]
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sum(sizes) == 397
    assert 7 in data.train_set.labels
    assert 7 not in data.val_set.labels
    counts = torch.bincount(data.test_set.labels, minlength=100)
    assert counts[torch.arange(100) != 7].min() == 1, "every class of two or more is in the test part"
    assert counts.max() <= 3, "and in the training part"


@pytest.mark.network
def test_a_class_without_pictures_does_no_harm(own, workplace, cli):
    rows = [line for line in (own / "train.csv").read_text().splitlines() if line[-1] in "01"]
    (workplace / "labels.csv").write_text("\n".join(rows))
    files = ("--data.source.annotations_file=labels.csv", f"--data.source.img_dir={own / 'images'}")
    words = ("--data.source=CSV", *files, '--data.source.label_names=["a", "b", "c"]', "--data.val_size=0.1")
    code, _, err = cli("fit", *words, "--trainer.max_epochs=1", "--model.class_weights=balanced")
    assert (code, err) == (0, "")
    code, out, err = cli("test")
    assert (code, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("c ")] == ["0"]


def test_classes_can_be_merged_and_renamed(small_data, tmp_path):
    both = {"T-shirt/top": "Top", "Shirt": "Top", "Ankle boot": "Boot"}
    data = FashionMNISTDataModule(val_size=100, class_map=both)
    data.source.root = str(tmp_path / "data")
    data.prepare_data()
    data.setup()
    assert data.class_names == ["Top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Sneaker", "Bag", "Boot"]
    assert torch.bincount(data.test_set.labels).tolist() == [40] + [20] * 8
    with pytest.raises(UserError, match=r"data.class_map names 'Hat': the classes are T-shirt/top"):
        _ = FashionMNISTDataModule(class_map={"Hat": "Top"}).class_names


def test_transforms_are_applied(own, tmp_path):
    plain, _ = table(own).load(train=False)
    flipped, labels = table(own, transform=lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).load(
        False
    )
    assert torch.equal(flipped[:], plain[:].flip(-1))
    paths = (str(own / "train.csv"), str(own / "images"), str(own / "test.csv"))
    source = CSV(*paths, target_transform=lambda label: "shoe" if label in "579" else "other")
    assert source.class_names == ["other", "shoe"]
    _, merged = source.load(train=False)
    assert torch.equal(merged == 1, (labels == 5) | (labels == 7) | (labels == 9))


def test_names_of_the_classes_are_those_of_the_training_part(tmp_path):
    blank = {"bytes": png(np.zeros((28, 28), np.uint8)), "path": None}
    names = {"huggingface": NAMES["huggingface"].replace('["a", "b"]', '["b", "a"]')}  # not sorted
    for part, metadata in (("train", names), ("test", None)):
        labels = [0, 1] if part == "train" else ["b", "a"]
        parquet(tmp_path, {"image": [blank] * 2, "label": labels}, metadata)
        (tmp_path / "data.parquet").rename(tmp_path / f"{part}.parquet")
    source = Parquet(str(tmp_path))
    source.load(train=True)
    assert source.load(train=False)[1].tolist() == [0, 1]
    assert source.class_names == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "train", "test", "fourth"),
    [
        ("MNIST", "train-{}-ubyte", "t10k-{}-ubyte", "3 - three"),
        ("KMNIST", "train-{}-ubyte", "t10k-{}-ubyte", "tsu"),
        ("QMNIST", "qmnist-train-{}", "qmnist-test-{}", "3 - three"),
        ("EMNIST", "emnist-balanced-train-{}-ubyte", "emnist-balanced-test-{}-ubyte", "3"),
    ],
)
def test_torchvisions_data_sets_by_name(name, train, test, fourth, tmp_path):
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    stored = np.random.default_rng(0).integers(0, 255, (20, 28, 28))
    for pattern, count in ((train, 20), (test, 10)):
        labels = np.arange(count) % 10
        if name == "QMNIST":  # its labels are rows of eight whole numbers, the first of which is the digit
            rows = np.stack([labels, *[np.full(count, 7)] * 7], 1).astype(">i4")
            header = b"\0\0\x0c\x02" + np.array(rows.shape, ">i4").tobytes()
            (raw / pattern.format("images-idx3-ubyte")).write_bytes(idx(stored[:count]))
            (raw / pattern.format("labels-idx2-int")).write_bytes(header + rows.tobytes())
        else:
            (raw / pattern.format("images-idx3")).write_bytes(idx(stored[:count]))
            (raw / pattern.format("labels-idx1")).write_bytes(idx(labels))
    source = TorchVision(name, str(tmp_path))
    source.prepare()
    images, labels = source.load(train=False)
    assert images.shape == (10, 1, 28, 28)
    upright = stored.swapaxes(1, 2) if name == "EMNIST" else stored
    assert (images[:, 0].numpy() == upright[:10]).all()
    assert (labels.dtype, labels.tolist()) == (torch.int64, list(range(10)))
    assert source.class_names[3] == fourth
    assert len(source.class_names) == (47 if name == "EMNIST" else 10)
    assert len(source.load(train=True)[0]) == 20


def test_a_data_set_that_cannot_be_had_is_one_line(tmp_path):
    (tmp_path / "KMNIST").touch()
    with pytest.raises(UserError, match=r"^data\.source: KMNIST could not be downloaded or read: .*Not a directory"):
        TorchVision("KMNIST", str(tmp_path)).prepare()


def make(folder, name, content=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.zeros((28, 28), np.uint8)) if content is None else content)


def fold(folder, files=(), contents=()):
    for name in files:
        make(folder, name)
    for name, content in contents:
        make(folder, name, content)
    return ImageFolder(str(folder))


def listed(folder, text, **options):
    make(folder, "img/a.png")
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return CSV(str(folder / "labels.csv"), str(folder / "img"), **options)


def parquet(folder, columns, metadata=None):
    schema = pa.table(columns).schema.with_metadata(metadata)
    pq.write_table(pa.table(columns).cast(schema), folder / "data.parquet")
    return Parquet(str(folder / "data.parquet"))


ONE = {"bytes": b"x", "path": None}
NAMES = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}})}
MISTAKES = {
    "no folder": (
        lambda path: ImageFolder(str(path / "nope")),
        "there is no folder .*nope: give --data.source.folder FOLDER",
    ),
    "no classes": (lambda path: ImageFolder(str(path)), "holds no folders: one for each class"),
    "empty class": (lambda path: (fold(path, ["a/1.png"]), (path / "b").mkdir())[0], "b holds no pictures"),
    "case": (lambda path: fold(path, ["Bag/1.png", "bag/2.png"]), "differ in case only: Bag and bag"),
    "unreadable": (lambda path: fold(path, ["a/1.png"], [("a/2.png", b"no")]), r"a/2.png is not a picture"),
    "unknown class": (lambda path: fold(path, ["train/a/1.png", "test/b/1.png"]), "lacks: b"),
    "no table": (
        lambda path: CSV(str(path / "nope.csv"), str(path)),
        "there is no file .*nope.csv: give --data.source.annotations_file FILE",
    ),
    "unknown file": (lambda path: listed(path, "a.png,0\nb.png,1\n"), r"labels.csv line 2: there is no file .*b.png"),
    "pixels": (
        lambda path: listed(path, f"label,{','.join(map(str, range(784)))}\n"),
        "holds the pixels, not files of",
    ),
    "columns": (lambda path: listed(path, "a.png,0,1\n"), "line 1: its columns are a.png, 0, 1; name two of them"),
    "range": (
        lambda path: listed(path, "a.png,7\n", label_names=["x", "y"]),
        "unknown class '7': the labels are 0 to 1",
    ),
    "no label": (lambda path: listed(path, "a.png,\n"), "line 1: the label is missing"),
    "empty table": (lambda path: listed(path, "file,label\n"), "names no pictures"),
    "binary table": (lambda path: listed(path, b"\xff\xfe\x00a,b"), "is not a table"),
    "case in table": (lambda path: listed(path, "a.png,Bag\na.png,bag\n"), "differ in case only"),
    "no parquet": (
        lambda path: Parquet(str(path / "nope.parquet")),
        "there is no file .*nope.parquet: give --data.source.path",
    ),
    "no parquet in folder": (lambda path: Parquet(str(path)), r"holds no files train\*.parquet"),
    "not parquet": (
        lambda path: ((path / "x.parquet").write_text("no"), Parquet(str(path / "x.parquet")))[1],
        "not a Parquet",
    ),
    "parquet columns": (lambda path: parquet(path, {"picture": [1]}), "lacks the column .*it has picture"),
    "parquet picture": (
        lambda path: parquet(path, {"image": [ONE], "label": [0]}),
        r"data.parquet row 1: is not a picture",
    ),
    "parquet nothing": (
        lambda path: parquet(path, {"image": pa.array([None], pa.binary()), "label": [0]}),
        "bytes are missing",
    ),
    "parquet label": (
        lambda path: parquet(path, {"image": [ONE], "label": [2]}, NAMES),
        "unknown class '2': the labels are 0 to 1",
    ),
    "test size": (lambda path: ImageFolder(str(path), test_size=-1), "test_size is -1"),
    "all test": (
        lambda path: ImageFolder(str(fold(path, ["a/1.png", "b/1.png"]).folder), test_size=2),
        "leaves none to train",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_file_and_line(tmp_path, mistake):
    build, message = MISTAKES[mistake]

    def read():
        source = build(tmp_path)
        source.load(train=True)
        source.load(train=False)

    with pytest.raises((UserError, FileNotFoundError), match=message):
        read()


def test_without_pictures_to_test_on_training_works(tmp_path):
    source = fold(tmp_path, ["train/a/1.png", "train/b/1.png", "train/b/2.png"])
    source.test_size = 0
    assert len(source.load(train=True)[1]) == 3
    with pytest.raises(UserError, match="leaves none to test on: give a test part"):
        source.load(train=False)


def test_cache_is_used_but_never_when_a_file_has_changed(tmp_path, cache, monkeypatch):
    source = fold(tmp_path / "own", ["train/a/1.png", "train/b/1.png"])
    first, _ = source.load(train=True)
    (saved,) = cache.iterdir()
    stamp = saved.stat().st_mtime_ns
    again, _ = fold(tmp_path / "own").load(train=True)
    assert torch.equal(first[:], again[:])
    assert saved.stat().st_mtime_ns == stamp
    make(tmp_path / "own", "train/a/1.png", png(np.full((28, 28), 9, np.uint8)))
    changed, _ = fold(tmp_path / "own").load(train=True)
    assert changed[0].max() == 9
    changed = changed[:]
    assert len(list(cache.iterdir())) == 1, "one file for each list of pictures"
    saved.write_bytes(saved.read_bytes()[:300])
    assert torch.equal(fold(tmp_path / "own").load(train=True)[0][:], changed), "a damaged cache is made again"
    cache_file = tmp_path / "not_a_folder"
    cache_file.touch()
    monkeypatch.setenv("FMNIST_CACHE", str(cache_file))
    assert torch.equal(fold(tmp_path / "own").load(train=True)[0][:], changed), (
        "a cache that cannot be written is no matter"
    )


def test_conversions_have_caches_of_their_own(tmp_path, cache):
    make(tmp_path, "own/a/1.png", png(np.full((56, 56), 200, np.uint8)))
    make(tmp_path, "own/a/2.png")
    photo = ImageFolder(str(tmp_path / "own"), test_size=0).load(True)[0]
    plain = ImageFolder(str(tmp_path / "own"), test_size=0, conversion="resize").load(True)[0]
    assert photo[0].max() == 0
    assert plain[0].min() == 200
    assert len(list(cache.iterdir())) == 2


@pytest.mark.network
def test_two_processes_fill_one_cache(own, tmp_path):
    words = ("--data.source=ImageFolder", f"--data.source.folder={own / 'folders'}", "--data.val_size=100")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: spawn("prepare", *words, cwd=tmp_path), range(2)))
    assert [done.returncode for done in both] == [0, 0], both[0].stderr
    assert both[0].stdout == both[1].stdout
    assert not list((tmp_path / "cache").glob(".*"))


def test_pictures_are_predicted_as_they_were_trained_on(workplace, tmp_path, cli):
    """A network that has seen pictures merely resized must not be shown them trimmed and inverted."""
    for number in range(60):  # dark squares of two sizes on light paper, which trimming would make the same
        side = 60 if number % 2 else 20
        picture = Image.new("L", (100, 100), 250 - number // 2 % 5)
        picture.paste(10 + number // 2, (10, 10, 10 + side, 10 + side))
        place = tmp_path / "sizes" / ("large" if number % 2 else "small")
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number}.png")
    words = ("--data.source=ImageFolder", f"--data.source.folder={tmp_path / 'sizes'}", "--data.val_size=0.2")
    train = ("--trainer.max_epochs=20", "--data.batch_size=8", "--model.hidden_dims=[8]", "--model.optimizer.lr=0.01")
    assert cli("fit", *words, "--data.source.conversion=resize", *train)[0] == 0
    assert cli("predict", "--images", tmp_path / "sizes", "--output", "out.csv")[0] == 0
    with Path("out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(Path(row["path"]).parent.name == row["predicted"] for row in rows)
    predictor = load("lightning_logs/version_0/checkpoints/best.ckpt")
    assert predictor.classify(tmp_path / "sizes/small/0.png").name == "small"
    assert predictor.description == {"name": "resize", "transform": None}
