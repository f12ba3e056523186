"""Untrusted runs and checkpoints: nothing that they name is resolved, and nothing is written elsewhere."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import _common, set_parsing_settings

from fmnist import FashionMNIST, UserError, load
from fmnist.data.saved import SOURCES, describe_source, read_data_settings
from fmnist.names import search_current_folder
from tests.conftest import spawn
from tests.forkserver import Executed

RUN = Path("lightning_logs/version_0")
LAST = RUN / "checkpoints/last.ckpt"
LITTLE = ("--data.val_size=100", "--model.hidden_dims=[8]", "--trainer.max_epochs=1", "--trainer.logger=false")
# Commands that read an untrusted run, with the options by which they would write
COMMANDS = (
    ("test",),
    ("validate",),
    ("predict", "--output", "out.csv", "--overwrite"),
    ("predict", "--images", "shoe.png"),
    ("export", "--output", "model.safetensors", "--overwrite"),
    ("compare",),
)
HARM = "open('executed', 'w').close()\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "lightning_logs"


@pytest.fixture
def run(workplace, cli, kept):
    """A folder with a run, as somebody could send it, beside a picture and modules that leave a trace. Returns it."""
    if not kept.exists():
        assert cli("fit", *LITTLE)[0] == 0
        (workplace / "lightning_logs").rename(kept)
    shutil.copytree(kept, "lightning_logs")
    from PIL import Image

    Image.new("L", (28, 28), 90).save("shoe.png")
    for name in ("evil", "best", "évil", "shoe", "labels"):
        (workplace / f"{name}.py").write_text(HARM)
    return workplace


@pytest.fixture
def nothing_resolved(monkeypatch):
    """Has the parser refuse every import path but the package's own sources, and the optimizer that is the default."""
    own = [path for name, full in SOURCES.items() for path in (f"fmnist.{name}", full)]
    own += [f"torch.optim.{name}" for name in ("SGD", "sgd.SGD", "Optimizer", "optimizer.Optimizer")]
    monkeypatch.setattr(_common, "parsing_settings", dict(_common.parsing_settings))
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=own)


def change(path, keys, value):
    """Changes an entry of a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    *outer, key = keys
    inner = checkpoint
    for name in outer:
        inner = inner[name]
    inner[key] = value
    torch.save(checkpoint, path)


def write_config(**parts):
    """Changes parts of the run's configuration."""
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    (RUN / "config.yaml").write_text(yaml.safe_dump({**config, **parts}))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_an_untrusted_run_is_read_without_resolving_a_name(run, cli, nothing_resolved, command):
    code, _, err = cli(*command)
    assert (code, err) == (0, ""), err


NAMES = (
    "fmnist.sweep.sweep.subprocess.getoutput",
    "fmnist.files.os.system",
    "os.system",
    "evil.attack",
    "évil.attack",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_untrusted_configuration_reaches_no_parser(run, cli, nothing_resolved, name):
    source = {"class_path": "fmnist.CSV", "init_args": {"annotations_file": "a", "img_dir": ".", "transform": name}}
    source["init_args.target_transform"] = name
    lambdas = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": name}}
    data = {"source": source, "source.init_args.target_transform": name, "num_workers": 40}
    write_config(data=data, trainer={"callbacks": [lambdas], "logger": name}, model={"network": name})
    for command in COMMANDS:
        code, _, err = cli(*command)
        assert (code, err) == (0, ""), command
    assert not Path("executed").exists()
    assert str(run) not in sys.path


HOSTILE = {
    "a function as a setting": {"settings": {"target_transform": "os.system"}},
    "a setting with a dot": {"settings": {"init_args.target_transform": "os.system"}},
    "a setting that is none": {"settings": {"évil": 1}},
    "a setting of another type": {"settings": {"img_dir": {"class_path": "os.system"}}},
    "settings in a list": {"settings": ["a"]},
    "no settings": {"settings": None},
    "no code": {"code": 3},
    "a name that is none": {"name": ["CSV"]},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_data_that_makes_no_sense_is_damage(run, cli, kind):
    good = {"name": "CSV", "settings": {"annotations_file": "a.csv", "img_dir": "."}, "code": {}}
    changed = HOSTILE[kind]
    if isinstance(changed.get("settings"), dict):
        changed = {"settings": {**good["settings"], **changed["settings"]}}
    change(LAST, ("FashionMNISTDataModule", "data", "source"), {**good, **changed})
    for command in ("test", "validate"):
        code, _, err = cli(command, "--ckpt_path", LAST)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{LAST} is damaged: " in err
    assert not Path("executed").exists()


@pytest.mark.parametrize("split", [{"val_size": "5"}, {"fold": 3}, {"class_map": {"a": ["b"]}}, {"split_seed": 1.5}])
def test_a_split_that_makes_no_sense_is_damage(run, cli, split):
    ((name, value),) = split.items()
    change(LAST, ("FashionMNISTDataModule", "data", name), value)
    code, _, err = cli("validate", "--ckpt_path", LAST)
    assert (code, err.count("\n")) == (2, 1)
    assert "is damaged" in err


@pytest.mark.parametrize("name", ["os.system", "evil.Source", "évil.Source", "fmnist.files.os.system", "best.ckpt"])
def test_an_untrusted_source_is_named_and_not_imported(run, cli, name):
    change(LAST, ("FashionMNISTDataModule", "data", "source", "name"), name)
    for command in ("test", "validate"):
        code, _, err = cli(command, "--ckpt_path", LAST)
        assert (code, err.count("\n")) == (2, 1)
        assert f"was trained with {name}; if you trust that code, name it yourself: fmnist {command}" in err
    assert not Path("executed").exists()


@pytest.mark.parametrize("network", ["best.ckpt", {"class_path": "evil.Net", "init_args": {}}, "évil.net", "os.abort"])
def test_only_the_option_names_a_network(run, cli, network):
    change(LAST, ("hyper_parameters", "network"), network)
    shutil.copy(LAST, "best.ckpt")
    for command in (("predict", "--images", "shoe.png"), ("export", "--output", "evil.onnx"), ("test",), ("fit",)):
        code, out, err = cli(*command, "--ckpt_path", "best.ckpt")
        assert (code, out, err.count("\n")) == (2, "", 1)
    with pytest.raises(UserError, match="was trained with"):
        load("best.ckpt")
    assert not Path("executed").exists()


def test_only_the_option_names_a_transform(run, cli):
    change(LAST, ("conversion", "transform"), "best.ckpt")
    shutil.copy(LAST, "best.ckpt")
    code, _, err = cli("predict", "--images", "shoe.png", "--ckpt_path", "best.ckpt")
    assert (code, err.count("\n")) == (2, 1)
    assert "--transform best.ckpt" in err
    assert not Path("executed").exists()


def test_the_current_folder_is_searched_only_for_code_that_an_option_names(run, cli, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(run))])
    cli("predict", "--images", "shoe.png", "--ckpt_path", LAST)
    (run / "labels.csv").write_text("shoe.png,a\n")
    cli("fit", "--data.source=CSV", "--data.source.annotations_file=labels.csv", "--data.source.img_dir=.")
    cli("fit", "--trainer.default_root_dir=some.where", "--data.val_size=no")
    assert str(run) not in sys.path
    cli("test", "--model.network", "nowhere.Net")
    assert sys.path[-1] == str(run)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["mine.Net", "mine.Outer.Net", "größe.Net"])
def test_a_name_of_code_is_made_of_identifiers(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    search_current_folder(["Adam", "fmnist.CSV", "a b.c", "2.5", "../x.py", "--x.y"])
    assert str(tmp_path) not in sys.path
    search_current_folder([name])
    assert sys.path[-1] == str(tmp_path)


def test_a_data_folder_elsewhere_is_not_filled(run, cli, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    for root in (str(victim), str(victim / "new"), "../victim", f"{run}/../victim"):
        change(LAST, ("FashionMNISTDataModule", "data", "source", "settings"), {"root": root})
        assert cli("test", "--ckpt_path", LAST)[0] == 0
        assert not list(victim.iterdir())


def test_your_own_data_folder_is_found_again(workplace, cli, tmp_path, monkeypatch):
    args = (*LITTLE, f"--data.source.root={tmp_path / 'mine'}")
    assert cli("fit", *args)[0] == 0
    monkeypatch.setenv("FMNIST_DATA", "/nowhere")
    assert cli("test", "--data.source.download=false")[0] == 0


def test_a_checkpoint_that_does_not_say_its_data_is_refused(run, cli):
    saved = torch.load(LAST, weights_only=True)
    saved["FashionMNISTDataModule"].pop("data")
    torch.save(saved, "silent.ckpt")
    for command in ("test", "validate"):
        code, _, err = cli(command, "--ckpt_path", "silent.ckpt")
        assert (code, err.count("\n")) == (2, 1)
        assert "silent.ckpt does not say what data it was trained on: name it, with --data.source" in err
        size = ["--data.val_size=100"] if command == "validate" else []
        assert cli(command, "--ckpt_path", "silent.ckpt", "--data.source=FashionMNIST", *size)[0] == 0


def test_modules_in_the_current_folder_replace_nothing(workplace):
    for name in ("yaml", "difflib", "typing", "torch", "fmnist_extra"):
        (workplace / f"{name}.py").write_text(HARM)
    done = spawn("compare", cwd=workplace, popen=Executed)  # what an interpreter finds first is the question
    assert done.returncode == 2
    assert "lightning_logs: there is no such folder" in done.stderr
    assert not (workplace / "executed").exists()


def test_the_table_of_sources_is_the_public_ones():
    for name, path in SOURCES.items():
        assert path.rpartition(".")[2] == name
    described = describe_source(FashionMNIST(root="there"))
    assert described == {"name": "FashionMNIST", "settings": {"root": "there"}, "code": {}}
    saved = {"data": {"val_size": 3, "split_seed": 0, "class_map": {}, "fold": None, "source": described}}
    settings = read_data_settings(saved, Path("x.ckpt"), {})
    assert settings["data.source"] == {"class_path": "fmnist.FashionMNIST", "init_args": {"root": "there"}}
    assert settings["data.val_size"] == 3
