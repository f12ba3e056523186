"""The folder of a run, and its best and last checkpoint."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from fmnist.errors import SetupError
from fmnist.files import atomic_path, write_whole
from fmnist.plots import draw_curves
from fmnist.runs import folder as runs
from fmnist.runs.checkpoint import Checkpoint as SavedValues
from fmnist.runs.checkpoint import read_saved
from fmnist.runs.settings import SHARED_KEYS
from fmnist.runs.tables import read_history
from fmnist.training.history import History

NO_NAME = "Unable to serialize instance "  # what jsonargparse puts before a text that stands for a function


@contextmanager
def claim_run_folder(trainer: Trainer, config: str, continued: Path | None, name: str | None) -> Iterator[Path | None]:
    """Claims the folder of a new run, or locks that of the run to continue, and has callbacks write there.

    A new folder is removed if an error comes before the first step. The folder of a continued run changes only when
    training starts.

    Args:
        trainer: The trainer, before it trains.
        config: Content of the run's ``config.yaml``.
        continued: The folder of the run to continue; None for a new run.
        name: Name of a new run, besides ``version_N``.

    Yields:
        The folder; None on all processes but the first, and for a ``fast_dev_run``.

    Raises:
        SetupError: Another process trains this run.
    """
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        yield None
        return
    folder = continued or runs.claim(_shorten(Path(trainer.default_root_dir)), config, name)
    handle = runs.lock(folder, wait=2)  # compare may be looking
    if handle is None:
        raise SetupError(f"{folder} is being trained by another process: stop that one first")
    if continued:
        start = LambdaCallback(on_train_start=lambda *_: _reopen(folder, config))
        trainer.callbacks.append(start)  # type: ignore[attr-defined]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, History | RunCheckpoint | ModelCheckpoint) and not callback.dirpath:
            callback.dirpath = str(folder if isinstance(callback, History) else folder / "checkpoints")
    try:
        yield folder
        runs.mark_ended(folder)
    except Exception:
        if not continued and trainer.global_step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def _shorten(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _reopen(run: Path, config: str) -> None:
    runs.ended_mark(run).unlink(missing_ok=True)
    runs.remove_parts(run)
    write_whole(run / "config.yaml", config)


def finish_interrupted_run(run: Path) -> None:
    """Draws the curves and marks the end of a run that was killed after its last epoch."""
    with suppress(OSError):  # the run may be read-only
        if runs.ended_mark(run).exists() or (handle := runs.lock(run)) is None:
            return
        try:
            runs.remove_parts(run)
            if rows := read_history(run):
                with atomic_path(run / "curves.png") as part:
                    draw_curves(rows, part)
            runs.mark_ended(run)
        finally:
            os.close(handle)


def dump_settings(parser: LightningArgumentParser, config: Namespace) -> str:
    """Returns settings as the ``config.yaml`` of a run, which every command accepts."""
    shared = Namespace(**{key: config[key] for key in SHARED_KEYS})  # type: ignore[no-untyped-call]
    return str(parser.dump(shared, skip_unset=False, skip_validation=True)).replace(NO_NAME, "")


class RunCheckpoint(Checkpoint):
    """Saves ``best.ckpt`` and ``last.ckpt`` at the end of each epoch.

    The best epoch has the highest ``val/acc`` and, of equals, the lowest ``val/loss``. Until one has been validated it
    is the last epoch, so that every run leaves something to test. A ``ModelCheckpoint`` knows neither of the two.
    """

    def __init__(self) -> None:
        self.dirpath: str | None = None
        self.score: tuple[float, float] | None = None
        """``val/acc`` and the negative ``val/loss`` of the best epoch."""

    @property
    def best(self) -> Path:
        """The file of the best epoch."""
        return Path(str(self.dirpath)) / "best.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sends the folder, which the first process has claimed, to all processes."""
        self.dirpath = trainer.strategy.broadcast(self.dirpath)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch."""
        if self.dirpath is None:  # fast_dev_run
            return
        metrics = trainer.callback_metrics
        score = (metrics["val/acc"].item(), -metrics["val/loss"].item()) if "val/acc" in metrics else None
        if self.score is None or (score is not None and score > self.score):
            self.score = score
            trainer.save_checkpoint(self.best, weights_only=False)
        trainer.save_checkpoint(self.best.with_name("last.ckpt"), weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """Returns the score of the best epoch, for the checkpoint."""
        return {"score": self.score}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: SavedValues) -> None:
        """Loads the score of the best epoch if its file is here: a checkpoint may be continued outside its run."""
        saved = checkpoint["callbacks"].get(self.state_key, {})
        self.score = saved.get("score") if trainer.strategy.broadcast(self.best.is_file()) else None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint next to its final path and moves it there once it has reached the disk.

    Lightning writes to the system's folder for temporary files. That can be another disk, from which a file is copied:
    a crash in the middle would destroy the previous checkpoint.
    """

    def __init__(self) -> None:
        self.folders: set[Path] = set()
        self.loaded: SavedValues | None = None
        """The content of the checkpoint to continue, if it has been read already; it is returned once."""

    def save_checkpoint(self, checkpoint: SavedValues, path: str | Path, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` as ``path``."""
        self.folders.add(Path(path).parent)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())  # a view of it could not be given back when writing fails

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> SavedValues:
        """Returns ``loaded`` the first time, otherwise the content of the file, read as every checkpoint is."""
        loaded, self.loaded = self.loaded, None
        return loaded or read_saved(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a file only from a folder in which checkpoints were saved: a checkpoint may name any path."""
        if Path(path).parent in self.folders and Path(path).is_file():
            Path(path).unlink()


class RunLogger(TensorBoardLogger):
    """A TensorBoardLogger without ``hparams.yaml``: the run has its ``config.yaml``."""

    @rank_zero_only
    def save(self) -> None:
        """Writes what has been logged."""
        self.experiment.flush()
