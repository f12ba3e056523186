"""A trained model under Lightning's trainer."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from fmnist import FashionMNISTDataModule, UserError, load
from fmnist.__main__ import main
from fmnist.model.ensemble import Ensemble
from fmnist.model.mlp import MLP
from fmnist.training.evaluation import Evaluator

RUN = Path("lightning_logs/version_0")
FIT = ("fit", "--data.val_size=300", "--trainer.max_epochs=1", "--trainer.logger=false")


@pytest.fixture
def runs(workplace):
    """Two small networks, version_0 and version_1."""
    for width in (8, 4):
        assert main([*FIT, f"--model.hidden_dims=[{width}]"]) == 0


@pytest.fixture
def passes(monkeypatch):
    """Counts how often each image goes through each network, and how many networks are built."""
    found, built = Counter(), []
    init = MLP.__init__

    def count(module, images, logits):
        if isinstance(module, MLP):
            found.update((built.index(id(module)), image.numpy().tobytes()) for image in images[0])

    def build(self, *args, **kwargs):
        built.append(id(self))
        init(self, *args, **kwargs)

    monkeypatch.setattr(MLP, "__init__", build)
    handle = register_module_forward_hook(count)
    yield found, built
    handle.remove()


@pytest.mark.parametrize("members", [["version_0"], ["version_0", "version_1"]])
@pytest.mark.parametrize("command", ["test", "predict"])
def test_each_image_goes_through_each_network_once(runs, passes, cli, command, members):
    output = ("--output", "out.csv") if command == "predict" else ()
    code, _, err = cli(command, "--ckpt_path", *members, *output)
    assert (code, err) == (0, "")
    found, built = passes
    assert len(built) == len(members)
    data = FashionMNISTDataModule(val_size=300)
    data.setup()
    images = data.test_set.images
    if command == "test" and len(members) > 1:  # for the temperature of the ensemble
        images = torch.cat([images, data.val_set.images])
    expected = Counter(image.numpy().tobytes() for image in images)
    for member in range(len(members)):
        assert {image: found[member, image] for image in expected} == expected


def test_an_ensemble_computes_once_what_its_members_do(runs):
    models = [load(f"version_{number}").model for number in (0, 1)]
    images = torch.randint(0, 256, (50, 1, 28, 28), dtype=torch.uint8)
    output, alone = Ensemble(models).predict(images), [model.predict(images) for model in models]
    assert torch.allclose(output.probabilities, (alone[0].probabilities + alone[1].probabilities) / 2, atol=1e-6)
    assert torch.equal(output.typicality, (alone[0].typicality + alone[1].typicality) / 2)
    assert all(torch.equal(output.members[:, number], alone[number].logits) for number in (0, 1))


@pytest.mark.parametrize("members", [["version_0"], ["version_0", "version_1"]])
def test_a_partial_test_says_so_and_never_replaces_a_whole_one(runs, cli, monkeypatch, members):
    monkeypatch.setattr("fmnist.data.datamodule.EVAL_BATCH_SIZE", 50)
    limit, words = "--trainer.limit_test_batches=3", ("test", "--ckpt_path", *members)
    code, out, err = cli(*words, limit)
    assert (code, err) == (0, "")
    assert "150 images only: a partial test" in out
    folder = RUN / "test" if len(members) == 1 else Path("lightning_logs/ensemble_0")
    partial = json.loads((folder / "metrics.json").read_text())
    assert (partial["num_samples"], partial["partial"]) == (150, True)
    assert "only: a partial test" in (folder / "report.html").read_text()
    if len(members) > 1:
        return
    assert "version_0" in cli("compare")[1]
    with (RUN / "test/metrics.json").open() as file:
        assert json.load(file)["partial"]
    assert '"accuracy"' not in export(cli), "a partial test is not quoted"
    assert cli(*words)[0] == 0
    whole = (folder / "metrics.json").read_bytes()
    assert b"partial" not in whole
    assert "not written: " in cli(*words, limit)[1]
    assert (folder / "metrics.json").read_bytes() == whole
    assert '"images": "200"' in export(cli)


def export(cli):
    assert cli("export", "--ckpt_path", "version_0", "--output", "page.html", "--overwrite")[0] == 0
    return Path("page.html").read_text()


def test_figures_are_printed_where_they_cannot_be_written(runs, cli):
    (RUN / "test").mkdir()
    (RUN / "test/metrics.json").mkdir()
    code, out, err = cli("test", "--ckpt_path", "version_0")
    assert (code, err.count("\n")) == (2, 1)
    assert "200 images" in out


def test_a_limit_of_zero_is_a_line(runs, cli):
    for command, words in (("test", ()), ("validate", ()), ("predict", ("--output=out.csv",))):
        limit = f"--trainer.limit_{'val' if command == 'validate' else command}_batches=0"
        code, _, err = cli(command, *words, limit)
        assert (code, err) == (2, f"fmnist: error: there is nothing to {command}: a limit of the trainer is 0\n")


def test_some_images_can_be_predicted(runs, cli, monkeypatch):
    monkeypatch.setattr("fmnist.data.datamodule.EVAL_BATCH_SIZE", 50)
    assert cli("predict", "--output=out.csv", "--trainer.limit_predict_batches=2")[0] == 0
    with Path("out.csv").open() as file:
        assert len([*csv.DictReader(file)]) == 100


def test_another_model_has_other_classes(runs):
    model = load("version_0").model
    model.class_names[0] = "Hemd"
    with pytest.raises(UserError, match="the model predicts Hemd, "):
        Evaluator(model).check_data(FashionMNISTDataModule().class_names, (1, 28, 28), "the data has")
