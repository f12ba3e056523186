import csv
import hashlib
import json
import shutil
import statistics

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from fmnist import FashionMNIST, FashionMNISTDataModule, load
from fmnist.__main__ import main
from fmnist.errors import UserError
from fmnist.model.calibration import fit_temperature
from fmnist.model.ensemble import Ensemble
from fmnist.runs import folder as runs
from tests.conftest import ROOT, train

MEMBERS = ["version_0", "version_1"]
FIT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=60", "--data.shift=0"]


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory, real_root):
    """Three small networks, of which one has another split, and a fourth of other classes."""
    folder = tmp_path_factory.mktemp("ensemble")
    for seed, words in enumerate(
        [
            ["--model.hidden_dims=[16]"],
            ["--model.hidden_dims=[8, 8]"],
            ["--model.hidden_dims=[8]", "--data.split_seed=1"],
            ["--model.hidden_dims=[8]", '--data.class_map={"T-shirt/top": "Top", "Shirt": "Top"}'],
        ]
    ):
        train(folder, real_root, *FIT, *words, "--seed_everything", str(seed))
    return folder


@pytest.fixture
def place(real_runs, tmp_path, monkeypatch):
    """A copy of the runs, as the current folder."""
    shutil.copytree(real_runs / "lightning_logs", tmp_path / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tested(real_runs, tmp_path_factory):
    """A folder in which the first run has been tested alone, and then the ensemble; nothing changes here."""
    folder = tmp_path_factory.mktemp("tested")
    shutil.copytree(real_runs / "lightning_logs", folder / "lightning_logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["test", "--ckpt_path", "version_0"]) == 0
        before = digests(folder)
        assert main(["test", "--ckpt_path", *MEMBERS]) == 0
        left = digests(folder)
    assert {path: left[path] for path in before} == before, "runs stay as they were, to the byte"
    new = {path.relative_to(folder).as_posix() for path in left.keys() - before.keys()}
    assert new == {f"lightning_logs/ensemble_0/{name}" for name in ("metrics.json", "report.html")}
    return folder


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def best(run):
    return f"lightning_logs/{run}/checkpoints/best.ckpt"


def mean(folder, images):
    """Returns the mean of what the members say, each asked by itself."""
    found = [load(folder / best(run)).predict(images).probabilities.double() for run in MEMBERS]
    return torch.stack(found).mean(0)


@pytest.fixture(scope="module")
def data(real_root):
    data = FashionMNISTDataModule(FashionMNIST(str(real_root)))
    data.setup()
    return data


def test_probabilities_are_the_mean_of_those_of_the_members(real_runs, data):
    models = [load(real_runs / best(run)).model for run in MEMBERS]
    ensemble = Ensemble(models)
    images = data.test_set.images[:500]
    with torch.inference_mode():
        assert torch.allclose(ensemble(images).double(), mean(real_runs, images), atol=1e-6)
        for model in models:
            model.temperature.fill_(1e-3)  # all but certain: a probability alone would be 0
        assert ensemble.predict(images).logits.isfinite().all()


def test_load_takes_several_or_a_folder_of_runs(place, real_runs, data):
    images = data.test_set.images[:100]
    for several in (MEMBERS, [best(run) for run in MEMBERS], [place / best(run) for run in MEMBERS]):
        found = load(several).predict(images).probabilities
        assert torch.allclose(found.double(), mean(real_runs, images), atol=1e-6)
    for run in ("version_2", "version_3"):
        shutil.rmtree(place / "lightning_logs" / run)
    assert torch.equal(load("lightning_logs").predict(images).probabilities, found)
    shutil.copytree(real_runs / "lightning_logs/version_3", place / "lightning_logs/version_3")
    with pytest.raises(UserError, match=r"version_3.* does not fit .*version_0.*: its classes are Top, "):
        load([*MEMBERS, "version_3"])
    with pytest.raises(UserError, match="empty list"):
        load([])


def test_figures_are_those_of_the_mean_calibrated_on_the_validation_images(tested, data):
    metrics = json.loads((tested / "lightning_logs/ensemble_0/metrics.json").read_text())
    images, labels = data.test_set.images, data.test_set.labels
    logits = mean(tested, images).log().log_softmax(1)  # floats sum up to one nearly
    assert metrics["num_samples"] == 10_000
    assert metrics["acc"] == (logits.argmax(1) == labels).double().mean().item()
    assert metrics["loss"] == pytest.approx(log_loss(labels, logits.exp()), abs=1e-5)
    temperature = fit_temperature(mean(tested, data.val_set.images).log(), data.val_set.labels)
    assert metrics["temperature"] == pytest.approx(temperature, abs=1e-4)
    assert metrics["temperature"] != 1
    assert metrics["nll"] == pytest.approx(log_loss(labels, torch.softmax(logits / temperature, 1)), abs=1e-5)
    assert metrics["nll"] < metrics["members_mean"]["nll"]
    assert (metrics["checkpoint"], metrics["epoch"]) == (None, None)
    assert metrics["digests"]["split"] == data.split_digest


def test_members_stand_beside_as_they_are_alone(tested):
    metrics = json.loads((tested / "lightning_logs/ensemble_0/metrics.json").read_text())
    alone = json.loads((tested / "lightning_logs/version_0/test/metrics.json").read_text())
    first, second = metrics["members"]
    assert first["digest"] == alone["digests"]["checkpoint"]
    assert [member["checkpoint"] for member in (first, second)] == [best(run) for run in MEMBERS]
    for name in ("acc", "top2_acc", "loss", "nll", "brier", "ece", "epoch"):
        assert first[name] == alone[name]
    both = [first["acc"], second["acc"]]
    assert both[0] != both[1]
    assert metrics["members_mean"]["acc"] == statistics.mean(both)
    assert metrics["members_std"]["acc"] == statistics.stdev(both)


def test_the_page_shows_members_and_how_to_repeat(tested):
    page = (tested / "lightning_logs/ensemble_0/report.html").read_text()
    metrics = json.loads((tested / "lightning_logs/ensemble_0/metrics.json").read_text())
    assert "the mean of the probabilities of 2 networks" in page
    assert f"fmnist test --ckpt_path {best('version_0')} {best('version_1')}" in page
    for member in metrics["members"]:
        assert member["digest"][:16] in page
        assert f"{member['nll']:.4f}" in page


def test_results_never_replace_others(tested, tmp_path, cli, monkeypatch):
    shutil.copytree(tested, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before, words = digests(tmp_path), ("test", "--ckpt_path", *MEMBERS, "--trainer.limit_test_batches=1")
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    assert cli(*words, "--output", "mine/of two")[0] == 0
    after = digests(tmp_path)
    assert {path: after[path] for path in before} == before
    added = {path.relative_to(tmp_path).parent.as_posix() for path in after.keys() - before.keys()}
    assert added == {"lightning_logs/ensemble_1", "mine/of two"}
    code, _, err = cli(*words, "--output", "mine/of two")
    assert (code, err.count("\n")) == (2, 1)
    assert "--output mine/of two: this exists" in err
    assert digests(tmp_path) == after
    assert "ensemble" not in cli("compare")[1]
    lines = out.splitlines()
    assert lines[0] == "test: an ensemble of 2 on cpu"
    found = json.loads((tmp_path / "lightning_logs/ensemble_1/metrics.json").read_text())
    for member in found["members"]:
        assert f"{member['checkpoint']}  acc {100 * member['acc']:.2f}%  nll {member['nll']:.4f}" in out
    spread = found["members_mean"]["acc"], found["members_std"]["acc"]
    assert "the 2 members: acc {:.2f}% ± {:.2f}%, ".format(*(100 * value for value in spread)) in out
    assert f"accuracy {100 * found['acc']:.2f}% (95% interval" in out


def test_a_trial_of_one_batch_leaves_nothing(place, cli):
    before = digests(place)
    assert cli("test", "--ckpt_path", *MEMBERS, "--trainer.fast_dev_run=true")[0] == 0
    assert digests(place) == before


def test_pictures_get_the_mean_without_the_data(place, cli, monkeypatch):
    monkeypatch.setenv("FMNIST_DATA", str(place / "nowhere"))
    shutil.move("lightning_logs/version_1", "lightning_logs/moved")
    for run in ("version_0", "moved"):
        (place / f"lightning_logs/{run}/config.yaml").unlink()
    checkpoints = [best("version_0"), best("moved")]
    picture = ROOT / "docs/boot.png"
    code, out, err = cli("predict", "--ckpt_path", *checkpoints, "--images", picture, "--output=-")
    assert (code, err) == (0, "predict: an ensemble of 2 on cpu\n")
    row = json.loads(out)
    alone = [load(path).classify(picture).probabilities for path in checkpoints]
    for name in alone[0]:
        assert row[f"p({name})"] == pytest.approx((alone[0][name] + alone[1][name]) / 2, abs=1e-6)


def test_test_images_get_the_mean(place, cli, data):
    words = ("predict", "--ckpt_path", *MEMBERS)
    assert cli(*words, "--output", "all.csv")[0] == 0
    with (place / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = np.array([[float(row[f"p({name})"]) for name in data.class_names] for row in rows])
    assert np.allclose(found, mean(place, data.test_set.images), atol=1e-6)
    out = cli(*words, "--index", 3)[1]
    assert f'predicted "{rows[3]["predicted"]}" ({100 * float(rows[3]["probability"]):.2f}%)' in out


def test_a_folder_of_runs_means_them_all(place, cli):
    for number, run in enumerate(MEMBERS):
        trial = place / f"lightning_logs/search/trial_{number:03}/lightning_logs/version_0"
        shutil.copytree(place / "lightning_logs" / run, trial)
    checkpoints = [path / "checkpoints/best.ckpt" for path in sorted(place.glob("lightning_logs/search/*/*/*"))]
    assert len(checkpoints) == 2
    assert runs.find_checkpoints(["search"], place) == checkpoints
    assert runs.find_checkpoints([str(place / "lightning_logs/search")], place) == checkpoints
    assert len(runs.find_checkpoints([str(place / "lightning_logs")], place)) == 4
    picture = ("--images", ROOT / "docs/boot.png")
    assert "an ensemble of 2" in cli("predict", "--ckpt_path", "search", *picture)[1]
    for verb in ("fit", "validate", "export", "serve"):
        needed = ("--output", "x.html") if verb == "export" else ()
        code, _, err = cli(verb, "--ckpt_path", "search", *needed)
        assert code == 2
        assert err == f"fmnist: error: {verb} takes one --ckpt_path, but got 2: test and predict take several\n"
    shutil.copytree("lightning_logs/search/trial_001", "lightning_logs/search/trial_002")
    runs.ended_mark(place / "lightning_logs/search/trial_002/lightning_logs/version_0").unlink()
    refused = place / "lightning_logs/search/trial_003"  # before it had a run
    refused.mkdir()
    (refused / "trial.json").write_text("{}")
    code, out, err = cli("predict", "--ckpt_path", "search", *picture)
    assert code == 0
    assert "an ensemble of 2" in out
    others = "search/trial_002/lightning_logs/version_0, search/trial_003"
    assert err == f"note: search without {others}: failed or not finished\n"
    for checkpoint in checkpoints:
        runs.ended_mark(checkpoint.parent.parent).unlink()
    code, _, err = cli("test", "--ckpt_path", "search")
    assert code == 2
    assert "--ckpt_path search: no run in this folder has finished: search/trial_000/" in err
    for number in (1, 2, 3):
        shutil.rmtree(f"lightning_logs/search/trial_{number:03}")
    assert "search/trial_000" in cli("predict", "--ckpt_path", "search", *picture)[1], "one run is one model"


def test_members_that_do_not_fit_are_refused_by_name(place, cli):
    saved = torch.load(best("version_1"), weights_only=True)
    torch.save({**saved, "conversion": {"name": "resize", "transform": None}}, "other.ckpt")
    shutil.copy(best("version_0"), "twin.ckpt")
    for other, message in {
        best("version_2"): "its split of the data is ",
        best("version_3"): "its classes are Top, Trouser, Pullover",
        "other.ckpt": "its pictures were converted by resize, not distance",
        "twin.ckpt": "are the same checkpoint",
        "nope.ckpt": "there is no such file",
    }.items():
        before = digests(place)
        for verb, *words in (["test"], ["predict", "--output", "x.csv"], ["predict", "--images", ROOT / "docs"]):
            code, _, err = cli(verb, "--ckpt_path", "version_0", other, *words)
            if other == best("version_2") and verb == "predict":
                assert code == 0, "a split is of no matter where nothing is measured"
                continue
            assert (code, err.count("\n")) == (2, 1)
            assert f"{other} " in err or f"{other}: " in err
            assert message in err
        assert {path for path in digests(place).keys() - before.keys() if path.suffix != ".csv"} == set()


def test_results_of_one_checkpoint_go_where_output_says(place, cli):
    before = digests(place)
    assert cli("test", "--ckpt_path", "version_0", "--output", "x")[0] == 0
    assert {path.relative_to(place).as_posix() for path in digests(place).keys() - before.keys()} == {
        "x/metrics.json",
        "x/report.html",
    }


def test_another_split_than_that_of_the_training_is_announced(place, cli):
    _, out, _ = cli("test", "--ckpt_path", *MEMBERS, "--data.split_seed=3", "--trainer.limit_test_batches=1")
    assert "note: the split of the data is " in out


def test_networks_of_ones_own_are_members_when_they_are_named(place, real_root, cli, monkeypatch):
    (place / "narrow.py").write_text(
        "from torch import nn\n\n\nclass Narrow(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))\n"
    )
    monkeypatch.syspath_prepend(place)
    train(place, real_root, *FIT, "--model.network=narrow.Narrow")
    words = ("test", "--ckpt_path", "version_0", "version_4", "--trainer.limit_test_batches=1")
    code, _, err = cli(*words)
    assert code == 2
    assert "was trained with narrow.Narrow" in err
    code, out, err = cli(*words, "--model.network", "narrow.Narrow")
    assert (code, err) == (0, "")
    assert "note:" not in out
