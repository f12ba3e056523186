"""The history of a run: one row per epoch, as a table and as a picture."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fmnist.files import atomic_path
from fmnist.plots import draw_curves, name_harder
from fmnist.runs.tables import append_seconds, percent, write_history

GUESSING = (
    "note: after one epoch the network is hardly better than guessing: check the learning rate, the labels,"
    " and the pictures (fmnist prepare --show samples.png)"
)
DRAW_EVERY = 10.0  # seconds: drawing takes a tenth of one, as much as all else that ends a short epoch


class History(Callback):
    """Keeps one row per epoch, prints it, and rewrites ``metrics.csv``.

    ``curves.png`` shows the same; where epochs are short it is drawn every ten seconds, and when training ends or is
    stopped. The rows are in every checkpoint, so a resumed run continues its own table. The seconds that epochs took
    go into a file of their own, ``times.csv``: they are the one thing that differs when a run is repeated.

    Args:
        dirpath: Folder for the files; the trainer's log folder if not given.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.rows: list[dict[str, float]] = []
        self._validated = False
        self._folder: Path | None = None
        self._harder = ""
        self._drawn = 0
        self._drawn_at = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the rows of a checkpoint."""
        self.rows = state_dict["rows"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, once: one that is removed later must not come back. Explains the training figures."""
        self._drawn_at = time.monotonic()
        data = vars(trainer.datamodule) if trainer.datamodule else {}  # type: ignore[attr-defined]
        self._harder = name_harder({**data, **pl_module.hparams})
        logged = trainer.log_dir  # on every process: it is a broadcast
        folder = None if trainer.fast_dev_run else self.dirpath or logged  # type: ignore[attr-defined]
        if folder and trainer.is_global_zero:
            self._folder = Path(folder)
            self._folder.mkdir(parents=True, exist_ok=True)
        if self._harder:
            explained = f"training is measured with {self._harder}, validation without"
            _print(trainer, f"note: {explained}: training can look worse than it is")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks this epoch as one with validation metrics of its own."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row of the epoch, prints it and rewrites the files."""
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
        seconds = time.monotonic() - self._start
        _print(trainer, _format(row, trainer.max_epochs, seconds))
        if trainer.current_epoch == 0 and _is_guessing(row, getattr(trainer, "datamodule", None)):
            _print(trainer, GUESSING)
        if self._folder:
            with _unless_locked():
                append_seconds(self._folder, trainer.current_epoch + 1, seconds)
            with _unless_locked():
                write_history(self.rows, self._folder)
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
            with _unless_locked(), atomic_path(self._folder / "curves.png") as part:
                draw_curves(self.rows, part, harder=self._harder)
            self._drawn, self._drawn_at = len(self.rows), time.monotonic()


@contextmanager
def _unless_locked() -> Iterator[None]:
    """Prints a note where Windows refuses to replace a file that is open elsewhere: the next epoch writes it again."""
    try:
        yield
    except PermissionError as error:
        print(f"note: {error.filename}: {error.strerror}; close it elsewhere, training goes on", flush=True)


def _is_guessing(row: dict[str, float], data: Any) -> bool:
    """Returns whether an epoch is hardly better than always naming the most frequent class."""
    stage, images = ("val", getattr(data, "val_set", None)) if "val/acc" in row else ("train", data and data.train_set)
    if images is None or f"{stage}/acc" not in row:
        return False
    chance = images.labels.bincount().max().item() / len(images)
    return not row[f"{stage}/acc"] > chance + 0.05 * (1 - chance)  # nan is no better either


def _print(trainer: Trainer, line: str) -> None:
    """Prints a line on the first process, above the progress bar if there is one."""
    bar = trainer.progress_bar_callback
    if trainer.is_global_zero:
        (partial(print, flush=True) if bar is None else bar.print)(line)


def _format(row: dict[str, float], max_epochs: int | None, seconds: float) -> str:
    """Formats an epoch as a line of at most 80 columns."""
    stages = [
        f"{stage} loss {row[f'{stage}/loss']:.4f} acc {percent(row[f'{stage}/acc'])}"
        for stage in ("train", "val")
        if f"{stage}/loss" in row
    ]
    return "  ".join([name_epoch(int(row["epoch"]), max_epochs), *stages, f"{seconds:.1f} s"])


def name_epoch(epoch: int, max_epochs: int | None) -> str:
    """Returns ``epoch 3/10``, or ``epoch 3`` where steps or time end the training."""
    return f"epoch {epoch}" if max_epochs in (None, -1) else f"epoch {epoch}/{max_epochs}"
