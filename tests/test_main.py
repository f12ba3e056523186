import re
import subprocess
import sys

import pytest
import yaml

import fmnist
from fmnist.__main__ import COMMANDS
from tests.conftest import ROOT, spawn
from tests.forkserver import Executed


def test_help_lists_the_commands(cli):
    for words in ([], ["-h"], ["--help"]):
        code, out, _ = cli(*words)
        assert code == 0
        for command in COMMANDS:
            assert f"  {command} " in out


def test_version(cli):
    assert cli("--version") == (0, f"fmnist {fmnist.__version__}\n", "")


def test_a_wrong_command_suggests_the_right_one(cli):
    code, _, err = cli("tset")
    assert code == 2
    assert err == "fmnist: error: unknown command 'tset': did you mean 'test'?\n"
    assert "choose from fit" in cli("xyz")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_short_help(cli, command):
    code, out, err = cli(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: fmnist {command} [options]")
    assert ("--data.val_size" in out) == (command in ("fit", "validate", "prepare"))
    assert ("--data.source" in out) == (command not in ("export", "compare", "serve", "sweep"))
    for option in ("--data.flip", "--data.batch_size", "--seed_everything", "--trainer.max_epochs", "--model.dropout"):
        assert (option in out) == (command == "fit"), f"{option} does something for fit only"
    assert f"example: fmnist {command} " in out
    assert len(out.splitlines()) < 125
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("--model.optimizer.help Adam", ["--model.optimizer.betas", "(default: 1e-3)"]),
        ("--trainer.callbacks.help EarlyStopping", ["--trainer.callbacks.monitor", "--trainer.callbacks.patience"]),
        ("--data.source.help ImageFolder", ["--data.source.folder"]),
    ],
)
def test_the_settings_of_a_class_are_listed(cli, argv, parts):
    code, out, err = cli("fit", *argv.split())
    assert (code, err) == (0, "")
    for part in parts:
        assert part in out
    assert not re.search(r"\.params|\S\.help |\(default: [^)]*\)\s+\(default: ", out), (
        "nothing of no use, no default twice"
    )


def test_settings_of_other_classes_are_shown_whatever_their_names_are(cli, workplace, monkeypatch):
    (workplace / "settled.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, num_classes: int, params: int = 3):\n        super().__init__(784, num_classes)\n"
    )
    monkeypatch.syspath_prepend(workplace)
    code, out, err = cli("fit", "--model.network.help", "settled.Net")
    assert (code, err) == (0, "")
    assert "--model.network.params" in out


def printed(cli, *words):
    code, out, err = cli("fit", *words, "--print_config")
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


BEFORE = """
trainer:
  callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/acc, min_delta: 0.5}}]
  logger: {class_path: CSVLogger, init_args: {save_dir: x, name: n}}
model: {optimizer: {class_path: SGD, init_args: {lr: 0.05, weight_decay: 0.0003}}}
data: {source: {class_path: fmnist.CSV, init_args: {annotations_file: a.csv, img_dir: b, test_size: 0.5}}}
"""
OTHER = """
trainer:
  callbacks: [{class_path: ModelCheckpoint, init_args: {monitor: val/loss}}]
  logger: {class_path: TensorBoardLogger, init_args: {save_dir: y}}
model: {optimizer: {class_path: Adam}}
data: {source: {class_path: fmnist.ImageFolder, init_args: {folder: c}}}
"""
OTHER_WORDS = [
    *("--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.monitor", "val/loss"),
    *("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "y"),
    *("--model.optimizer", "Adam", "--data.source", "ImageFolder", "--data.source.folder", "c"),
]


@pytest.mark.parametrize("words", [["--config", "other.yaml"], OTHER_WORDS], ids=["files", "typed"])
def test_another_class_starts_from_its_own_defaults(cli, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before.yaml").write_text(BEFORE)
    (tmp_path / "other.yaml").write_text(OTHER)
    settings = printed(cli, "--config", "before.yaml", *words)
    optimizer, source = settings["model"]["optimizer"], settings["data"]["source"]
    assert optimizer["class_path"] == "torch.optim.Adam"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["weight_decay"]) == (0.001, 0)
    assert source["init_args"] | {"folder": "c", "test_size": 0.2} == source["init_args"]
    assert settings["trainer"]["logger"]["init_args"]["name"] == "lightning_logs"
    (callback,) = settings["trainer"]["callbacks"]
    assert (callback["class_path"].split(".")[-1], callback["init_args"]["monitor"]) == ("ModelCheckpoint", "val/loss")


def test_the_same_class_keeps_its_settings(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before.yaml").write_text(BEFORE)
    (tmp_path / "same.yaml").write_text("model: {optimizer: {class_path: torch.optim.sgd.SGD}}")
    for words in (["--model.optimizer", "SGD"], ["--config", "same.yaml"]):
        settings = printed(cli, "--config", "before.yaml", *words, "--model.optimizer.momentum", "0.5")
        found = settings["model"]["optimizer"]["init_args"]
        assert (found["lr"], found["weight_decay"], found["momentum"]) == (0.05, 0.0003, 0.5)


def test_light_things_do_not_import_torch():
    code = "import sys, fmnist; from fmnist.__main__ import main; main(['--version']); main(['--help']); main(['x']);"
    code += "assert not {'torch', 'lightning', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_public_names_exist():
    for name in fmnist.__all__:
        assert getattr(fmnist, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fmnist.nothing  # noqa: B018


def test_a_console_that_cannot_show_a_letter_loses_nothing(workplace):
    (workplace / "lightning_logs" / "version_0").mkdir(parents=True)
    (workplace / "lightning_logs" / "version_0" / "config.yaml").write_text(
        "model: {a: Schürze 裤子}", encoding="utf-8"
    )
    (workplace / "lightning_logs" / "version_1").mkdir()
    (workplace / "lightning_logs" / "version_1" / "config.yaml").write_text("model: {a: b}", encoding="utf-8")
    done = spawn("compare", "--format", "csv", cwd=workplace, popen=Executed, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"Sch\xfcrze \u88e4\u5b50" in done.stdout
