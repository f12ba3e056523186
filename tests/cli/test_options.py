"""Options and configurations: what is accepted is obeyed, or refused in a line; what is printed is accepted again."""

import json
import os
from pathlib import Path

import pytest
import yaml

from fmnist import UserError
from fmnist.cli.command import parse_fit
from fmnist.cli.resolve import look
from tests.conftest import spawn
from tests.forkserver import Executed

LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")


def parse(*argv):
    """Returns the settings that `fit` would have."""
    (settings,) = parse_fit([[*argv]])
    return settings


@pytest.mark.parametrize("limit", [*LIMITS, "val_check_interval"])
def test_a_whole_number_of_batches_is_one(limit, tmp_path):
    (tmp_path / "one.yaml").write_text(f"trainer: {{{limit}: 1}}")
    (tmp_path / "all.yaml").write_text(f"trainer: {{{limit}: 1.0}}")
    cases = {
        (f"--trainer.{limit}", "1"): int,
        (f"--trainer.{limit}=1",): int,
        (f"--trainer.{limit}=1.0",): float,
        (f"--trainer.{limit}=0.5",): float,
        ("--config", str(tmp_path / "one.yaml")): int,
        ("--config", str(tmp_path / "all.yaml")): float,
        ("--config", str(tmp_path / "one.yaml"), f"--trainer.{limit}=1.0"): float,
    }
    for argv, kind in cases.items():
        assert type(parse(*argv).trainer[limit]) is kind, argv


def test_one_batch_is_trained_on(workplace, cli):
    words = ("--model.hidden_dims=[8]", "--data.val_size=100", "--trainer.max_epochs=1", "--data.batch_size=10")
    code, _, err = cli("fit", *words, "--trainer.limit_train_batches=1", "--trainer.logger=false")
    assert (code, err) == (0, "")
    written = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())["trainer"]
    assert written["limit_train_batches"] == 1
    assert type(written["limit_train_batches"]) is int


@pytest.mark.parametrize(
    ("argv", "epochs"),
    [
        ("", 10),
        ("--trainer.max_steps 200", -1),
        ("--trainer.max_steps=200 --trainer.max_epochs=3", 3),
        ("--trainer.max_steps -1", 10),
        ("--trainer.max_time 00:01:00:00", -1),
        ("--config steps.yaml", -1),
    ],
)
def test_a_limit_of_steps_or_time_lifts_the_default_epochs(argv, epochs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("steps.yaml").write_text("trainer: {max_steps: 200}")
    assert parse(*argv.split()).trainer.max_epochs == epochs


@pytest.mark.parametrize(
    "argv",
    [
        "--model.optimizer.lr 0.5 --model.optimizer Adam",
        "--model.optimizer Adam --model.optimizer.lr 0.5",
        "--model.optimizer.lr=0.5 --config sgd.yaml --model.optimizer=Adam",
        "--model.optimizer SGD --model.optimizer.init_args.lr 0.5 --model.optimizer.class_path torch.optim.Adam",
        "--model.optimizer.lr=0.5 --data.batch_size 32 --config=sgd.yaml --model.optimizer {class_path:Adam}",
    ],
)
def test_settings_of_a_class_are_kept_in_any_order(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sgd.yaml").write_text("model: {optimizer: {class_path: SGD, init_args: {lr: 0.05, weight_decay: 0.1}}}")
    optimizer = parse(*(word.replace(":A", ": A") for word in argv.split())).model.optimizer
    assert optimizer.class_path == "torch.optim.Adam"
    assert (optimizer.init_args.lr, optimizer.init_args.weight_decay) == (0.5, 0)


def test_only_settings_move_and_only_behind_their_class():
    argv = ["stray", "--a.b.c=1", "--x", "1", "2", "--a.b=C", "--a", "D", "--b+=E", "--b.f", "1", "--b+=G", "--b.h=-1"]
    assert look(argv).argv == ["stray", "--x", "1", "2", "--a", "D", "--a.b=C", "--a.b.c=1", *argv[8:]]


def test_a_key_that_is_there_twice_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("section.yaml").write_text("model: {dropout: 0.1}\ndata: {batch_size: 3}\nmodel: {normalization: batch}")
    Path("deep.yaml").write_text("model:\n  optimizer: {class_path: SGD, init_args: {lr: 1, lr: 2}}")
    with pytest.raises(UserError, match=r"section.yaml is not a configuration: model is there twice, again in line 3"):
        parse("--config", "section.yaml")
    with pytest.raises(UserError, match="lr is there twice"):
        parse("--config=deep.yaml")
    with pytest.raises(UserError, match=r"--data\.class_map: a is there twice"):
        parse("--data.class_map", "{a: b, a: c}")


def test_a_configuration_is_utf_8_whatever_the_locale(workplace):
    (workplace / "plain.yaml").write_bytes("# 隐藏层\ndata: {class_map: {Shirt: 衬衫}}".encode())
    (workplace / "marked.yaml").write_bytes("# 隐藏层\ndata: {source: {init_args: {root: 数据}}}".encode("utf-8-sig"))
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    words = ("fit", "--config", "plain.yaml", "--config", "marked.yaml", "--print_config")
    done = spawn(*words, cwd=workplace, popen=Executed, **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.encode("ascii").decode("unicode_escape")
    data = yaml.safe_load(printed)["data"]
    assert (data["class_map"], data["source"]["init_args"]["root"]) == ({"Shirt": "衬衫"}, "数据")


def test_what_is_printed_is_accepted_whatever_a_class_is_called(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"1e3": "null", "1_000": "~", "0x10": "yes", "3": "2024-01-01", "衬衫": "a: b", "-1e-3": "1.5"}
    Path("typed.yaml").write_text(json.dumps({"data": {"class_map": names}}), "utf-8")
    for _ in range(2):
        code, out, err = cli("fit", "--config", "typed.yaml", "--print_config")
        assert (code, err) == (0, "")
        Path("typed.yaml").write_text(out, encoding="utf-8")
        assert parse("--config", "typed.yaml").data.class_map == names


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", ".001", "1.0e-3"])
def test_a_number_is_a_number_in_any_spelling(number, tmp_path):
    (tmp_path / "c.yaml").write_text(f"model: {{optimizer: {{class_path: SGD, init_args: {{lr: {number}}}}}}}")
    for argv in (["--model.optimizer.lr", number], ["--config", str(tmp_path / "c.yaml")]):
        assert parse(*argv).model.optimizer.init_args.lr == 0.001


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("test", "--data.flip=true"),
        ("test", "--data.val_size=3"),
        ("test", "--trainer.max_epochs=3"),
        ("validate", "--data.batch_size=3"),
        ("predict", "--seed_everything=3"),
    ],
)
def test_an_option_that_does_nothing_is_refused_and_in_a_configuration_ignored(workplace, cli, command, option):
    code, _, err = cli(command, option, "--print_config")
    name = option.partition("=")[0]
    assert code == 2
    assert f"{name} does nothing for {command}: leave it out" in err
    part, _, key = name[2:].partition(".")
    value = yaml.safe_load(option.partition("=")[2])
    Path("c.yaml").write_text(yaml.safe_dump({part: {key: value} if key else value}))
    assert cli(command, "--config", "c.yaml", "--print_config")[0] == 0


def test_prepare_takes_the_options_of_fit(workplace, cli):
    options = ("--trainer.max_epochs=3", "--model.hidden_dims=[8]", "--data.batch_size=9", "--seed_everything=1")
    code, out, err = cli("prepare", *options, "--data.val_size=50")
    assert (code, err) == (0, "")
    assert "validation       50 images" in out


def test_home_is_home_wherever_a_configuration_or_a_folder_is_given(workplace, cli):
    os.environ["HOME"] = str(workplace)
    Path("c.yaml").write_text("trainer: {default_root_dir: ~/runs}\ndata: {val_size: 100}\nmodel: {hidden_dims: [8]}")
    assert cli("fit", "--config", "~/c.yaml", "--trainer.max_epochs=1")[0] == 0
    assert (workplace / "runs/lightning_logs/version_0/checkpoints/best.ckpt").is_file()
    for words in (("test", "-c", "~/c.yaml"), ("test", "--trainer.default_root_dir=~/runs")):
        assert cli(*words)[0] == 0
    for words in (("export", "--config=~/c.yaml"), ("export", "--default_root_dir", "~/runs", "--overwrite")):
        assert cli(*words, "--output", "~/model.html")[0] == 0
    assert not Path("~").exists()
