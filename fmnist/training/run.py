"""What every run of the command line carries: its folder and its checkpoints."""

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from fmnist.errors import PlaceError
from fmnist.files import PARTS, atomic_path, write_whole
from fmnist.plots import draw_curves
from fmnist.runs import folder as runs
from fmnist.runs.settings import SHARED_KEYS
from fmnist.runs.tables import read_history
from fmnist.training.history import History

NO_NAME = "Unable to serialize instance "  # what jsonargparse puts before a text that stands for a function


class RunFolder(SaveConfigCallback):
    """Gives the run its folder, once the data is there and every setting has been accepted.

    Args:
        parser: Parser of the command line.
        config: The parsed settings, which are saved as ``config.yaml``.
        checkpoint: Checkpoint of the run to continue, if it lies in one: a run keeps its folder.
        step: Optimization steps that the checkpoint has seen; what TensorBoard has of later ones is dropped.
        tensorboard: Whether to write TensorBoard events.
        name: What the run is called besides, if it has no folder yet.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        checkpoint: Path,
        step: int,
        tensorboard: bool,
        name: str | None,
    ) -> None:
        super().__init__(parser, config)
        self.continued = runs.run_folder(checkpoint)
        self.step = step if self.continued else None
        self.tensorboard = tensorboard
        self.name = name
        self.handle: int | None = None
        self.folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claims nothing yet: a mistake that is found while things are set up must leave no folder.

        Users' own checkpoints of a continued run are told where they are, or they would drop their record.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if self.continued and type(callback) is ModelCheckpoint and not callback.dirpath:
                callback.dirpath = str(self.continued / "checkpoints")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claims a folder, or takes that of the checkpoint, and sends everything there."""
        self.folder = folder = trainer.strategy.broadcast(self._claim(trainer) if trainer.is_global_zero else Path())
        default = str(Path(trainer.default_root_dir) / "checkpoints")  # where a user's own ModelCheckpoint would write
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunCheckpoint):
                path = folder / "checkpoints" / f"{callback.filename}.ckpt"
                callback.move_to(path, trainer.strategy.broadcast(path.is_file()))
            elif isinstance(callback, History):
                callback.dirpath = str(folder)
            elif isinstance(callback, ModelCheckpoint) and callback.dirpath == default:
                callback.dirpath = str(folder / "checkpoints")
        if self.tensorboard:
            logs = folder.parent
            options: dict[str, Any] = {"default_hp_metric": False, "purge_step": self.step}
            trainer.loggers = [_TensorBoard(logs.parent, logs.name, folder.name, **options)]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the training has ended by itself."""
        if self.folder and trainer.is_global_zero:
            runs.mark_ended(self.folder)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets others continue the run."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets others continue the run; one in which nothing has been trained, for a mistake, leaves no folder."""
        self.teardown(trainer, pl_module, "fit")
        mistake = isinstance(exception, Exception) and trainer.global_step == 0
        if mistake and self.folder and not self.continued and trainer.is_global_zero:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _claim(self, trainer: Trainer) -> Path:
        config = dump_settings(self.parser, self.config)
        if not self.continued:
            root, here = Path(trainer.default_root_dir), Path.cwd()
            root = root.relative_to(here) if root.is_relative_to(here) else root
            folder = runs.claim(root, config, self.name)
            self.handle = runs.lock(folder, wait=2)
            return folder
        self.handle = runs.lock(self.continued, wait=2)  # compare may be looking
        if self.handle is None:
            raise PlaceError(f"{self.continued} is being trained by another process: stop that one first")
        runs.ended_mark(self.continued).unlink(missing_ok=True)
        _remove_parts(self.continued)
        write_whole(self.continued / "config.yaml", config)
        return self.continued


def dump_settings(parser: LightningArgumentParser, config: Namespace) -> str:
    """Writes settings as the ``config.yaml`` of a run, which every verb accepts."""
    shared = Namespace(**{key: config[key] for key in SHARED_KEYS})  # type: ignore[no-untyped-call]
    return str(parser.dump(shared, skip_none=False, skip_validation=True)).replace(NO_NAME, "")


def round_off(run: Path) -> None:
    """Does what a process that was killed after its last epoch has not done: the curves, and the note of the end."""
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


def _remove_parts(run: Path) -> None:
    for part in runs.find_below(run, PARTS):  # of the process that was killed
        part.unlink()


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint of a fixed name, whose record survives when the run is moved.

    Args:
        filename: Name of the file, without its ending.
        monitor: Metric of which the highest is kept, and of equals that with the lowest ``val/loss``. Until it is
            known the last epoch is kept: a training always leaves something to test. None keeps the last epoch.
    """

    def __init__(self, filename: str, monitor: str | None = None) -> None:
        options: dict[str, Any] = {"mode": "max", "enable_version_counter": False, "save_on_train_epoch_end": True}
        super().__init__(filename=filename, monitor=monitor, **options)
        self.key = self._generate_state_key(filename=filename)
        self.best_loss = math.inf

    @property
    def state_key(self) -> str:
        """Name of this callback's record in a checkpoint."""
        return self.key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Does nothing: the run folder is given by ``move_to``."""

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tells whether this epoch is better than the best so far."""
        loss = trainer.callback_metrics.get("val/loss", torch.tensor(math.inf)).item()
        better = super().check_monitor_top_k(trainer, current)
        if better or (current is not None and current == self.best_model_score and loss < self.best_loss):
            self.best_loss = loss
            return True
        return False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch, if it is the best or nothing has been validated."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.monitor and not self.best_k_models and not self._should_skip_saving_checkpoint(trainer):
            self.best_model_path = self.format_checkpoint_name({})
            self._save_checkpoint(trainer, self.best_model_path)

    def state_dict(self) -> dict[str, Any]:
        """Returns the record, for the checkpoint."""
        return {**super().state_dict(), "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the record of a checkpoint."""
        self.dirpath = state_dict["dirpath"]  # another folder would make Lightning drop half of the record
        super().load_state_dict(state_dict)
        self.best_loss = state_dict.get("best_loss", -math.inf)  # of earlier versions: the first of equals stays

    def move_to(self, path: Path, exists: bool) -> None:
        """Changes where the checkpoint is written, and the record of what is there.

        Args:
            path: The checkpoint's file.
            exists: Whether it is there; the record of one that has been left behind is forgotten.
        """
        self.dirpath = str(path.parent)
        if exists:
            self.best_model_path = str(path)
            self.best_k_models = {str(path): score for score in self.best_k_models.values()}
            self.kth_best_model_path = str(path) if self.best_k_models else ""
        else:
            self.best_model_path, self.kth_best_model_path, self.best_k_models = "", "", {}
            self.best_model_score, self.best_loss = None, math.inf


def run_checkpoints(validated: bool) -> list[RunCheckpoint]:
    """Makes the keepers of ``best.ckpt`` and ``last.ckpt``.

    They are two, as ``save_last`` writes only when the best has improved
    (https://github.com/Lightning-AI/pytorch-lightning/pull/21244).

    Args:
        validated: Whether there is a validation accuracy; without one, best is the last.
    """
    return [RunCheckpoint("best", monitor="val/acc" if validated else None), RunCheckpoint("last")]


class _TensorBoard(TensorBoardLogger):
    """A TensorBoardLogger without a ``hparams.yaml``: the run has its ``config.yaml``.

    SLURM's signal finalizes it wherever the training is: in the middle of a flush that would wait for itself for ever.
    """

    flushing = False

    @rank_zero_only
    def save(self) -> None:
        self.flushing = True
        self.experiment.flush()
        self.flushing = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if not self.flushing:
            super().finalize(status)
