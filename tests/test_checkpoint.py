import pickle

import pytest
import torch

from fmnist import ImageClassifier, UserError
from fmnist.runs.checkpoint import read_checkpoint
from fmnist.training.checkpoint_io import AtomicCheckpointIO


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


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 0}, path)
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    assert torch.load(path) == {"epoch": 0}
    assert list(tmp_path.iterdir()) == [path]
