import pickle

import pytest
import torch
import yaml

from fmnist import ImageClassifier, UserError
from fmnist.runs.checkpoint import read_checkpoint
from fmnist.runs.settings import read_run_settings
from fmnist.training.checkpoint_io import AtomicCheckpointIO

LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"


class Evil:
    def __reduce__(self):
        return (exec, ("open('executed', 'w').close()",))


def write(path, **settings):
    model = ImageClassifier(hidden_dims=[8], class_names=["a", "b"])
    torch.save({"epoch": 1, "state_dict": model.state_dict(), "hyper_parameters": {**model.hparams, **settings}}, path)


def test_reads_a_good_one(tmp_path):
    write(tmp_path / "good.ckpt")
    assert read_checkpoint(tmp_path / "good.ckpt")["epoch"] == 1


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "pickle", "evil", "other", "list"])
def test_refuses_anything_else_in_one_line_and_runs_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.ckpt"
    write(path)
    good = path.read_bytes()
    if kind == "other":
        torch.save({"state_dict": {}, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "evil":
        torch.save({"epoch": Evil()}, path)
    else:
        contents = {"empty": b"", "text": b"hello", "truncated": good[: len(good) // 2], "pickle": pickle.dumps(Evil())}
        path.write_bytes(contents[kind])
    with pytest.raises(UserError, match=r"bad\.ckpt is (not a|the) checkpoint of") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_refuses_an_optimizer_of_an_unknown_package_where_it_would_be_used(tmp_path):
    path = tmp_path / "bad.ckpt"
    write(path, optimizer={"class_path": "evil.SGD"})
    with pytest.raises(UserError, match=r"names evil\.SGD"):
        read_checkpoint(path, to_continue=True)
    assert read_checkpoint(path)["epoch"] == 1


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 0}, path)
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    assert torch.load(path) == {"epoch": 0}
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def test_reads_settings_of_the_run(run):
    config = {"data": {"batch_size": 3}, "model": {"dropout": 0.5}}
    (run / "config.yaml").write_text(yaml.dump(config))
    assert read_run_settings(run / "checkpoints" / "best.ckpt", ("data",)) == {"data": {"batch_size": 3}}


def test_outside_a_run_there_are_none(run):
    assert read_run_settings(run / "checkpoints" / "best.ckpt", ("data",)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: [", "is not a configuration"),
        ("just text", "is not a configuration"),
        ("data: {source: {class_path: os.system}}", "names os.system"),
        ("data: {source: torch.nn.Linear}", "names torch.nn.Linear"),
        ("data: evil.yaml", "is not a configuration"),
        ("data: {source: evil}", "names evil"),
        ("trainer: evil.yaml", "is not a configuration"),
        ("trainer: {callbacks: [evil.Callback]}", "names evil.Callback"),
        (
            f"trainer: {{callbacks: [{{class_path: {LAMBDA}, init_args: {{on_fit_start: os.abort}}}}]}}",
            "names os.abort",
        ),
        ("data: &x [*x]", "is not a configuration"),
    ],
)
def test_refuses_a_damaged_or_foreign_configuration(run, content, message, monkeypatch):
    monkeypatch.chdir(run)
    (run / "evil").write_text("class_path: os.system")
    (run / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_run_settings(run / "checkpoints" / "best.ckpt", ("data", "trainer"))
