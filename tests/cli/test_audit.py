"""``data.fold``, and ``audit``: labels that look wrong, by networks that have not seen them."""

import csv
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fmnist import FashionMNIST, FashionMNISTDataModule, ImageFolder, load
from fmnist.__main__ import main
from fmnist.cli.audit import find_folds
from fmnist.cli.sweep import _check_options
from fmnist.sweep.plan import read_plan
from tests.conftest import ROOT

COUNT, FOLDS, PLANTED = 600, 3, 12
SOURCE = "--data.source=examples.npz.Arrays"


def folds_of(source, count, **settings):
    """Returns the data module of each fold, set up."""
    made = [FashionMNISTDataModule(source, fold=f"{number}/{count}", **settings) for number in range(1, count + 1)]
    for data in made:
        data.setup("fit")
    return made


def test_folds_share_all_images_and_keep_the_classes(workplace):
    FashionMNIST().prepare()
    made = folds_of(FashionMNIST(), 5)
    held_out = torch.cat([data.held_out for data in made])
    assert torch.equal(held_out.sort().values, torch.arange(600))
    images, labels = FashionMNIST().load(train=True)
    for data in made:
        assert data.val_set.labels.bincount().tolist() == [12] * 10
        assert len(data.train_set) == 480
        assert torch.equal(data.val_set.images, images[data.held_out])
        assert torch.equal(data.val_set.labels, labels[data.held_out])
        assert len(data.val_dataloader()) == 1
    assert torch.equal(folds_of(FashionMNIST(), 5, val_size=0)[1].held_out, made[1].held_out)
    assert not torch.equal(folds_of(FashionMNIST(), 5, split_seed=1)[1].held_out, made[1].held_out)


def test_equal_pictures_stay_in_one_fold(small_data, tmp_path):
    images, labels = FashionMNIST(str(tmp_path)).load(train=True)
    for number in range(120):
        for copy in "ab"[: 1 + (number < 20)]:
            path = tmp_path / "photos" / f"{labels[number] % 3}" / f"{copy}{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number, 0].numpy()).save(path)
    made = folds_of(ImageFolder(str(tmp_path / "photos"), test_size=0), 4)
    assert torch.equal(torch.cat([data.held_out for data in made]).sort().values, torch.arange(140))
    assert max(len(data.val_set) for data in made) <= 35 + 5
    for data in made:
        seen = {image.numpy().tobytes() for image in data.train_set.images}
        assert not [image for image in data.val_set.images if image.numpy().tobytes() in seen]


def test_a_validation_part_is_no_fold(small_data, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            path = tmp_path / "photos" / part / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (28, 28), 99).save(path)
    words = ("--data.source", "ImageFolder", "--data.source.folder", "photos", "--data.fold", "1/2")
    code, _, err = cli("fit", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "data.fold: the source has a validation part: leave --data.fold out" in err


def test_other_verbs_take_a_fold(workplace, cli):
    assert "validation      120 images" in cli("prepare", "--data.fold", "5/5")[1]
    words = ("--data.fold=2/3", "--data.val_size=0", "--model.hidden_dims=[8]", "--trainer.max_epochs=1")
    assert cli("fit", *words)[0] == 0
    assert (workplace / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[1].split(",")[-1]
    assert cli("validate")[::2] == (0, "")


def test_the_sweep_that_comes_along_is_accepted(workplace):
    plan = read_plan(ROOT / "configs/sweeps/folds.yaml")
    assert [point["data.fold"] for point in plan.grid()] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    _check_options(plan, ["--data.val_size=0"])


@pytest.fixture(scope="module")
def trained(real_root, tmp_path_factory):
    """Three folds of 600 real images, with 12 labels changed, laid out as a sweep does. Returns folder and changes."""
    folder = tmp_path_factory.mktemp("audit")
    images, labels = (part[:COUNT].numpy() for part in FashionMNIST(str(real_root)).load(train=True))
    changed = np.random.default_rng(0).permutation(COUNT)[:PLANTED]
    labels[changed] = (labels[changed] + 5) % 10
    np.savez(folder / "images.npz", x_train=images[:, 0], y_train=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--config", str(ROOT / "configs/mlp.yaml"), SOURCE, "--data.source.train=images.npz"]
        words += ["--data.batch_size=50", "--model.optimizer.lr=0.05", "--trainer.max_epochs=6"]
        for number in range(1, FOLDS + 1):
            trial = folder / "folds" / f"trial_{number:03}"
            options = [f"--data.fold={number}/{FOLDS}", f"--trainer.default_root_dir={trial}"]
            assert main(["fit", *words, "--model.hidden_dims=[32]", *options]) == 0
            (trial / "trial.json").write_text(json.dumps({"point": {}}))
        left = trial / "lightning_logs/version_0"
        left.rename(left.with_name("version_1"))
        left.mkdir()  # the trial has begun anew
        (left / "config.yaml").write_text("data: {fold: 1/7}")
    return folder, {*changed.tolist()}


@pytest.fixture
def folds(trained, tmp_path, monkeypatch):
    """A copy of the folder, as the current one."""
    shutil.copytree(trained[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy" / "folds"


def read(folder):
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_image_is_judged_by_the_network_that_has_not_seen_it(folds, trained, cli):
    code, out, err = cli("audit", "folds", SOURCE)
    assert (code, err) == (0, "")
    rows = read(folds)
    assert [*rows[0]] == ["index", "given", "predicted", "p(given)", "p(predicted)"]
    assert sorted(int(row["index"]) for row in rows) == [*range(COUNT)]
    probable = [float(row["p(given)"]) for row in rows]
    assert probable == sorted(probable)
    found = {int(row["index"]) for row in rows[: 3 * PLANTED]}
    assert len(found & trained[1]) > PLANTED / 2, "most of the changed ones are among the first 6%"

    known, accuracies = {int(row["index"]): row for row in rows}, []
    for run in find_folds(folds):
        last = load(run / "checkpoints/last.ckpt")
        data = FashionMNISTDataModule(arrays(), fold=yaml.safe_load((run / "config.yaml").read_text())["data"]["fold"])
        data.setup("validate")
        for index, prediction in zip(data.held_out.tolist(), last.classify(data.val_set.images), strict=True):
            row = known[index]
            assert row["predicted"] == prediction.name
            assert float(row["p(given)"]) == pytest.approx(prediction.probabilities[row["given"]], rel=1e-4)
            assert float(row["p(predicted)"]) == pytest.approx(prediction.probability, rel=1e-4)
        epoch = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))[-1]
        accuracies.append(float(epoch["val/acc"]))
    mean, std = 100 * np.mean(accuracies), 100 * np.std(accuracies, ddof=1)
    assert f"acc {mean:.2f}% ± {std:.2f}% over 3 folds, 600 images\n" in out
    assert len(re.findall(r"^  training image \d+: given ", out, re.MULTILINE)) == 10


def arrays():
    from examples.npz import Arrays

    return Arrays("images.npz")


def test_the_page_shows_the_first_hundred_and_needs_nothing_else(folds, cli):
    assert cli("audit", "folds", SOURCE)[0] == 0
    page, first = (folds / "labels.html").read_text(encoding="utf-8"), read(folds)[0]
    assert page.count('<img src="data:image/png;base64,') == page.count("<img") == 100
    assert page.index(f"training image {first['index']}:") < page.index(f"training image {read(folds)[1]['index']}:")
    assert "The 100 least probable labels of 600" in page
    assert "http" not in page
    assert not [path for path in folds.iterdir() if path.name.endswith(".part")]


def test_figures_are_printed_where_nothing_can_be_written(folds, cli):
    (folds / "labels.csv").mkdir()
    code, out, err = cli("audit", "folds", SOURCE)
    assert (code, err.count("\n")) == (2, 1)
    assert "over 3 folds, 600 images" in out
    assert "labels.csv" in err


def test_code_of_ones_own_is_named_once_more(folds, cli):
    code, _, err = cli("audit", "folds")
    assert (code, err.count("\n")) == (2, 1)
    command = shlex.split(err.partition("name it yourself: ")[2])
    assert command[:2] == ["fmnist", "audit"]
    assert cli(*command[1:])[::2] == (0, "")
    assert cli("audit", SOURCE, "--data.source.train", "images.npz", "folds")[::2] == (0, "")


def test_pictures_are_named_by_their_files(small_data, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    images, labels = FashionMNIST(str(tmp_path)).load(train=True)
    for number in range(60):
        path = tmp_path / "photos" / ["<up>", "down"][labels[number] > 4] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number, 0].numpy()).save(path)
    words = ("--data.source=ImageFolder", "--data.source.folder=photos", "--data.source.test_size=0")
    for fold in ("1/2", "2/2"):
        options = ("--data.fold", fold, "--model.hidden_dims=[8]", "--trainer.max_epochs=1", "--trainer.logger=false")
        assert cli("fit", *words, *options)[0] == 0
    code, out, err = cli("audit", "lightning_logs")
    assert (code, err) == (0, "")
    rows, page = read(tmp_path / "lightning_logs"), (tmp_path / "lightning_logs/labels.html").read_text()
    assert [*rows[0]][:2] == ["index", "path"]
    assert {row["path"] for row in rows} == {str(path.relative_to(tmp_path)) for path in tmp_path.glob("photos/*/*")}
    assert all(row["path"].split("/")[1] == row["given"] for row in rows)
    assert f"  {rows[0]['path']}: given {rows[0]['given']} " in out
    assert "given &lt;up&gt;, " in page
    assert "<up>" not in page


def run_of(folds, number):
    return find_folds(folds)[number - 1]


def change(run, part="data", **settings):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[part] |= settings
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def relabel(folds):
    saved = dict(np.load(folds.parent / "images.npz"))
    np.savez(folds.parent / "images.npz", x_train=saved["x_train"], y_train=saved["y_train"][::-1])


MISTAKES = {
    "lacks fold 2/3: train it": lambda folds: shutil.rmtree(folds / "trial_002"),
    "fold 2/3 is there twice, folds/again/": lambda folds: shutil.copytree(folds / "trial_002", folds / "again"),
    "(fold 1/3) is not finished: fmnist fit": lambda folds: (run_of(folds, 1) / "ended").unlink(),
    "last.ckpt is missing: train fold 3/3 again": lambda f: (run_of(f, 3) / "checkpoints/last.ckpt").unlink(),
    "in data.split_seed: folds must differ only in data.fold": lambda f: change(run_of(f, 2), split_seed=1),
    "in trainer.max_epochs: folds must differ": lambda f: change(run_of(f, 2), "trainer", max_epochs=7),
    "has fold 2/4, but folds/trial_001": lambda folds: change(run_of(folds, 2), fold="2/4"),
    "data.fold is x: write 2/5": lambda folds: change(run_of(folds, 1), fold="x"),
    "the data has changed since the training": relabel,
    "cannot be read (it holds no settings)": lambda folds: (run_of(folds, 2) / "config.yaml").write_text("1"),
    "is not a checkpoint of fmnist": lambda f: (run_of(f, 2) / "checkpoints/last.ckpt").write_bytes(b"weights"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_is_wrong_with_the_runs_is_named(folds, cli, message):
    MISTAKES[message](folds)
    code, _, err = cli("audit", "folds", SOURCE)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (folds / "labels.csv").exists()
