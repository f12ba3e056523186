"""What a run of the command line leaves on disk: its folder, the best and the last checkpoint."""

import io
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from fmnist.errors import PlaceError
from fmnist.files import PARTS, atomic_path, write_whole
from fmnist.plots import draw_curves
from fmnist.runs import folder as runs
from fmnist.runs.checkpoint import Checkpoint, read_saved
from fmnist.runs.settings import SHARED_KEYS
from fmnist.runs.tables import read_history
from fmnist.training.history import History

NO_NAME = "Unable to serialize instance "  # what jsonargparse puts before a text that stands for a function
RECORDED = ("best_model_path", "kth_best_model_path", "last_model_path")  # paths in the state of a ModelCheckpoint


@contextmanager
def run_folder(trainer: Trainer, config: str, continued: Path | None, name: str | None) -> Iterator[Path | None]:
    """Claims the folder of a new run, or locks that of the run to continue, and has callbacks write there.

    A new folder is removed where a mistake is found before the first step. The folder of a continued run changes only
    when training starts.

    Args:
        trainer: It is about to train.
        config: Content of the run's ``config.yaml``.
        continued: The folder of the run to continue; None for a new run.
        name: What a new run is called besides.

    Yields:
        The folder; None on all processes but the first, and for a ``fast_dev_run``.

    Raises:
        PlaceError: Another process trains this run.
    """
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        yield None
        return
    folder = continued or runs.claim(_shorten(Path(trainer.default_root_dir)), config, name)
    handle = runs.lock(folder, wait=2)  # compare may be looking
    if handle is None:
        raise PlaceError(f"{folder} is being trained by another process: stop that one first")
    if continued:
        start = LambdaCallback(on_train_start=lambda *_: _reopen(folder, config))
        trainer.callbacks.append(start)  # type: ignore[attr-defined]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, History | ModelCheckpoint) and not callback.dirpath:
            callback.dirpath = str(folder / "checkpoints" if isinstance(callback, ModelCheckpoint) else folder)
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
    """Makes a run one that has not ended."""
    runs.ended_mark(run).unlink(missing_ok=True)
    _remove_parts(run)
    write_whole(run / "config.yaml", config)


def _remove_parts(run: Path) -> None:
    for part in runs.find_below(run, PARTS):  # of a process that was killed
        part.unlink()


def finish_interrupted_run(run: Path) -> None:
    """Draws the curves and marks the end of a run that was killed after its last epoch."""
    with suppress(OSError):  # a run that may only be read is as good
        if runs.ended_mark(run).exists() or (handle := runs.lock(run)) is None:
            return
        try:
            _remove_parts(run)
            if rows := read_history(run):
                with atomic_path(run / "curves.png") as part:
                    draw_curves(rows, part)
            runs.mark_ended(run)
        finally:
            os.close(handle)


def dump_settings(parser: LightningArgumentParser, config: Namespace) -> str:
    """Returns settings as the ``config.yaml`` of a run, which every command accepts."""
    shared = Namespace(**{key: config[key] for key in SHARED_KEYS})  # type: ignore[no-untyped-call]
    return str(parser.dump(shared, skip_none=False, skip_validation=True)).replace(NO_NAME, "")


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint with a fixed file name, saved at the end of an epoch.

    Args:
        filename: Name of the file, without its ending.
        monitor: Metric of which the highest is kept, and of equals that with the lowest ``val/loss``. Until it is
            known the last epoch is kept: a training always leaves something to test. None keeps the last epoch.
    """

    def __init__(self, filename: str, monitor: str | None = None) -> None:
        options: dict[str, Any] = {"mode": "max", "enable_version_counter": False, "save_on_train_epoch_end": True}
        super().__init__(filename=filename, monitor=monitor, **options)
        self.best_loss = math.inf

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Returns whether this epoch is better than the best so far; where none was validated it is saved here."""
        if current is None and not self.best_k_models:
            self.best_model_path = self.format_checkpoint_name({})
            trainer.save_checkpoint(self.best_model_path, self.save_weights_only)
        loss = trainer.callback_metrics.get("val/loss", torch.tensor(math.inf)).item()
        better = super().check_monitor_top_k(trainer, current)
        if better or (current is not None and current == self.best_model_score and loss < self.best_loss):
            self.best_loss = loss
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, for the checkpoint."""
        return {**super().state_dict(), "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self.best_loss = state_dict["best_loss"]


def run_checkpoints() -> list[RunCheckpoint]:
    """Returns what saves ``best.ckpt`` and ``last.ckpt``.

    They are two, as ``save_last`` writes only when the best has improved
    (https://github.com/Lightning-AI/pytorch-lightning/pull/21244).
    """
    return [RunCheckpoint("best", monitor="val/acc"), RunCheckpoint("last")]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint next to its final path and moves it there once it has reached the disk.

    Lightning writes to the system's folder for temporary files, which can be another disk: moving a
    file from there is copying it, and a crash in the middle would cost the previous checkpoint.
    """

    def __init__(self) -> None:
        self.folders: set[Path] = set()
        self.given: dict[str, Callable[[], Checkpoint]] = {}
        """What to load instead of a file that has been read already, by the path of the file."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: str | Path, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` as ``path``."""
        self.folders.add(Path(path).parent)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())  # a view of it could not be given back when writing fails

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> Checkpoint:
        """Returns what was given for ``path``, else what the file holds, read as every checkpoint is."""
        given = self.given.pop(str(path), None)
        return given() if given else read_saved(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a file from a folder that checkpoints were saved in; nothing else, whatever a checkpoint names."""
        if Path(path).parent in self.folders and Path(path).is_file():
            Path(path).unlink()


def keep_callback_states(checkpoint: Checkpoint, trainer: Trainer) -> Checkpoint:
    """Returns a checkpoint with the states of the trainer's callbacks only, and their files where they are now.

    A ModelCheckpoint removes files by the paths in its state; the run may have been moved, or be somebody else's.

    Args:
        checkpoint: The content of a checkpoint.
        trainer: Its callbacks have been set up, so they know their folders.
    """
    states: dict[str, Any] = checkpoint.get("callbacks") or {}
    kept = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (state := states.get(callback.state_key)) is not None:
            known = isinstance(callback, ModelCheckpoint)
            kept[callback.state_key] = _relocate(state, str(callback.dirpath)) if known else state
    return {**checkpoint, "callbacks": trainer.strategy.broadcast(kept)}  # the first process looks for the files


def _relocate(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """Moves the paths in the state of a ModelCheckpoint to its folder; those of missing files are dropped."""

    def find(path: Any) -> str:
        here = os.path.join(folder, Path(str(path)).name)  # noqa: PTH118 - as Lightning writes it
        return here if os.path.isfile(here) else ""  # noqa: PTH113

    moved = {**state, "dirpath": folder, **{name: find(state.get(name)) for name in RECORDED}}
    models = {find(path): score for path, score in (state.get("best_k_models") or {}).items()}
    moved["best_k_models"] = {path: score for path, score in models.items() if path}
    return moved if moved["best_model_path"] else {**moved, "best_model_score": None}


class RunLogger(TensorBoardLogger):
    """A TensorBoardLogger without a ``hparams.yaml``: the run has its ``config.yaml``.

    Args:
        folder: The run's.
        purge_step: Of a continued run, the steps that its checkpoint has seen: events of later ones are hidden.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        logs, options = folder.parent, {"default_hp_metric": False, "purge_step": purge_step}
        super().__init__(logs.parent, logs.name, folder.name, **options)  # type: ignore[arg-type]

    @rank_zero_only
    def save(self) -> None:
        """Writes what has been logged."""
        self.experiment.flush()
