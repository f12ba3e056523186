"""The course of a training: one row per epoch, as a table and as a picture."""

import math
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fmnist.files import atomic_path
from fmnist.plots import draw_curves
from fmnist.runs.tables import append_seconds, percent, write_history

DRAW_EVERY = 5.0  # seconds: drawing takes a tenth of one, as much as all else that ends a short epoch


class History(Callback):
    """Keeps one row per epoch and rewrites ``metrics.csv`` at the end of each.

    ``curves.png`` shows the same; where epochs are short it is drawn every five seconds, and when
    the training ends or is stopped. The rows travel in every checkpoint, so a resumed training
    continues its own table. Each row is printed as a line, above a progress bar where there is one. The
    seconds that epochs took go into ``times.csv``, by themselves: they are the one thing that
    differs when a training is repeated.

    Args:
        dirpath: Folder for the two files; the trainer's log folder if not given.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.rows: list[dict[str, float]] = []
        self._validated = False
        self._folder: str | None = None
        self._drawn = 0
        self._drawn_at = -math.inf

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the rows of a checkpoint."""
        self.rows = state_dict["rows"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, once: one that is removed during the training must not come back."""
        logged = trainer.log_dir  # on every process: it is a broadcast
        folder = None if trainer.fast_dev_run else self.dirpath or logged  # type: ignore[attr-defined]
        if folder and trainer.is_global_zero:
            self._folder = folder
            Path(folder).mkdir(parents=True, exist_ok=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that this epoch has validation metrics of its own."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the epoch's row and rewrites the files."""
        stages = ("train/", "val/") if self._validated else ("train/",)
        self._validated = False
        row: dict[str, float] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith(stages)},
        }
        self.rows = [*self.rows, row]
        if not trainer.is_global_zero:
            return
        bar = trainer.progress_bar_callback
        (partial(print, flush=True) if bar is None else bar.print)(_line(row, trainer.max_epochs))
        if self._folder:
            append_seconds(Path(self._folder), trainer.current_epoch + 1, time.monotonic() - self._start)
            write_history(self.rows, Path(self._folder))
            if time.monotonic() - self._drawn_at > DRAW_EVERY:
                self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last epochs."""
        self._draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draws the epochs before the training was stopped."""
        with suppress(OSError):  # the exception may be that there is no room
            self._draw()

    def _draw(self) -> None:
        if self._folder and len(self.rows) > self._drawn:
            with atomic_path(Path(self._folder) / "curves.png") as part:
                draw_curves(self.rows, part)
            self._drawn, self._drawn_at = len(self.rows), time.monotonic()


def _line(row: dict[str, float], max_epochs: int | None) -> str:
    """Writes an epoch as a line that fits 80 columns."""
    stages = [
        f"{stage}: loss {row[f'{stage}/loss']:.4f}  acc {percent(row[f'{stage}/acc'])}"
        for stage in ("train", "val")
        if f"{stage}/loss" in row
    ]
    return "  ".join([f"epoch {row['epoch']:.0f}/{max_epochs}", *stages])
