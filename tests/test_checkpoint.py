import pickle

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from fmnist import ImageClassifier, UserError
from fmnist.runs.checkpoint import read_checkpoint
from fmnist.training.checkpoints import AtomicCheckpointIO, RunCheckpoint, keep_callback_states


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


@pytest.mark.parametrize("where", ["local://{}/folder", "{}/folder", "{}/file.txt", "{}/run/../file.txt"])
def test_paths_in_a_checkpoint_remove_nothing(tmp_path, where):
    folder, named = tmp_path / "run", where.format(tmp_path)
    for path in (folder / "best.ckpt", tmp_path / "folder" / "precious", tmp_path / "file.txt"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    best = RunCheckpoint("best", monitor="val/acc")
    other = ModelCheckpoint(monitor="val/loss", dirpath=folder)
    best.dirpath = str(folder)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[best, other])
    record = {"best_k_models": {named: torch.tensor(0.5)}, "best_model_score": torch.tensor(0.5), "dirpath": named}
    record |= dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), named)
    states = {callback.state_key: dict(record) for callback in (best, other)} | {"Strange": {}}
    kept = keep_callback_states({"callbacks": states}, trainer)["callbacks"]
    assert {*kept} == {best.state_key, other.state_key}
    for state in kept.values():
        assert state["dirpath"] == str(folder)
        assert [state[name] for name in record if name.endswith("path") and name != "dirpath"] == [""] * 3
        assert (state["best_k_models"], state["best_model_score"]) == ({}, None)
    files = AtomicCheckpointIO()
    files.save_checkpoint({}, folder / "best.ckpt")
    files.remove_checkpoint(named)
    assert (tmp_path / "folder" / "precious").exists()
    assert (tmp_path / "file.txt").exists()
    files.remove_checkpoint(folder / "best.ckpt")
    assert not (folder / "best.ckpt").exists()


def test_states_of_callbacks_follow_a_run_that_was_moved(tmp_path):
    best, stop = RunCheckpoint("best", monitor="val/acc"), EarlyStopping("val/loss")
    best.dirpath, path = str(tmp_path), str(tmp_path / "best.ckpt")
    (tmp_path / "best.ckpt").touch()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[best, stop])
    state = {**best.state_dict(), "best_model_path": "old/best.ckpt", "kth_best_model_path": "old/best.ckpt"}
    state |= {"best_k_models": {"old/best.ckpt": torch.tensor(0.5)}, "dirpath": "old", "best_loss": 0.25}
    kept = keep_callback_states({"callbacks": {best.state_key: state, stop.state_key: stop.state_dict()}}, trainer)
    assert kept["callbacks"][stop.state_key] == stop.state_dict()
    best.load_state_dict(kept["callbacks"][best.state_key])
    assert best.best_model_path == best.kth_best_model_path == path
    assert (best.best_k_models, best.best_loss) == ({path: torch.tensor(0.5)}, 0.25)
