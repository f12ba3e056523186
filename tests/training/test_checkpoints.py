"""The checkpoints of a run: written whole, none removed that is not of the run, the best and the last kept."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from fmnist.training.checkpoints import AtomicCheckpointIO, RunCheckpoint


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
    folder, path_in_checkpoint = tmp_path / "run", where.format(tmp_path)
    for path in (folder / "best.ckpt", tmp_path / "folder" / "precious", tmp_path / "file.txt"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files = AtomicCheckpointIO()
    files.save_checkpoint({}, folder / "best.ckpt")
    files.remove_checkpoint(path_in_checkpoint)
    assert (tmp_path / "folder" / "precious").exists()
    assert (tmp_path / "file.txt").exists()
    files.remove_checkpoint(folder / "best.ckpt")
    assert not (folder / "best.ckpt").exists()


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        ([(0.5, 0.3), (0.7, 0.4), (0.6, 0.1)], 1),
        ([(0.5, 0.3), (0.5, 0.2), (0.5, 0.25), (0.5, 0.2)], 1),  # of equals the lowest loss, of those the first
        ([None, None], 1),
        ([None, (0.1, 3.0), None, (0.1, 3.0)], 1),
    ],
)
def test_the_best_epoch_is_kept_and_the_last(tmp_path, epochs, best):
    class Metrics(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if epochs[trainer.current_epoch]:
                names = ("val/acc", "val/loss")
                trainer.callback_metrics.update(zip(names, torch.tensor(epochs[trainer.current_epoch]), strict=True))

    kept = RunCheckpoint()
    kept.dirpath = str(tmp_path / "checkpoints")
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[Metrics(), kept], max_epochs=len(epochs), **options, limit_val_batches=0)
    trainer.fit(BoringModel())
    found = {name: torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert (found["best"]["epoch"], found["last"]["epoch"]) == (best, len(epochs) - 1)
    wanted = epochs[best] and pytest.approx((epochs[best][0], -epochs[best][1]))
    assert kept.score == found["last"]["callbacks"][kept.state_key]["score"] == wanted
