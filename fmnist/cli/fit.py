"""``fit``: train a model, or continue a run."""

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder
from torch import nn

from fmnist.cli.console import name_device, say
from fmnist.cli.resolve import Start
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.data.problems import check_batch_size, find_problems
from fmnist.errors import UserError, check
from fmnist.model.calibration import FEW
from fmnist.model.mlp import MLP
from fmnist.runs.checkpoint import data_state
from fmnist.runs.folder import check_links, newest_run, run_folder
from fmnist.runs.tables import LOGGED, percent
from fmnist.training.checkpoints import (
    AtomicCheckpointIO,
    RunCheckpoint,
    RunLogger,
    claim_run_folder,
    finish_interrupted_run,
)
from fmnist.training.classifier import ImageClassifier

EXAMPLE = "fmnist fit --config configs/mlp.yaml --model.dropout 0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``fit`` has beside the options of the Trainer."""
    parser.add_argument("--name", type=str, help="Name of the run; use it later as --ckpt_path NAME.")


def fit(
    start: Start,
    settings: Namespace,
    trainer: Trainer,
    model: ImageClassifier,
    data: FashionMNISTDataModule,
    config: str,
) -> None:
    """Trains a new run or continues one, and prints where its files are; ``config`` becomes its ``config.yaml``."""
    continued = run_folder(start.path)
    if continued:
        check_links(continued)
    if start.epochs and 0 < (trainer.max_epochs or 0) <= start.epochs:
        if continued and (trainer.max_epochs or 0) >= ((start.planned or {}).get("max_epochs") or 0):
            finish_interrupted_run(continued)
        say(f"{start.path} is already trained for {start.epochs} epochs. To continue, raise --trainer.max_epochs.")
        return
    check_batch_size(data.batch_size, trainer.world_size)
    some = 0 not in (trainer.max_epochs, trainer.max_steps, settings.trainer.limit_train_batches)
    check(some, "there is nothing to train: trainer.max_epochs, max_steps or limit_train_batches is 0")
    if start.checkpoint:
        _check_continued(start, trainer, model)
    else:
        if not start.given.has_typed("c", "config"):
            say("note: no --config given, using defaults. For the 91% recipe: --config mlp.yaml")
        say(f"fit on {name_device(trainer)}")
        if continued:
            say(f"note: {continued} was stopped before its first epoch had ended, and begins again")
    _check_callbacks(trainer, data)
    trainer.callbacks.append(PrintSummary(data_state(start.checkpoint)))  # type: ignore[attr-defined]
    trainer.precision_plugin.convert_module(model)  # before callbacks copy it
    with claim_run_folder(trainer, config, continued, settings.name) as run:
        if run and settings.trainer.logger in (True, None):
            purge = start.checkpoint.get("global_step", 0) if continued else None  # hides events of later steps
            logs = (run.parent.parent, run.parent.name, run.name)
            trainer.loggers = [RunLogger(*logs, default_hp_metric=False, purge_step=purge)]
        began = time.monotonic()
        _train(start, trainer, model, data)
        check(trainer.global_step > 0, "nothing has been trained: the time limit was over before the first step")
    best = _find_best(trainer)
    if best and best.dirpath:
        score = "last epoch, no validation" if best.score is None else f"val acc {percent(best.score[0])}"
        if best.score and data.val_set is not None and len(data.val_set) < FEW:
            few = f"only {len(data.val_set):,} validation images: probabilities are poorly calibrated"
            say(f"warning: {few} ({FEW} or more recommended)")
        say(f"trained in {time.monotonic() - began:.0f} s")
        say(f"best: {best.best} ({score})")
        if (curves := Path(str(best.dirpath)).parent / "curves.png").exists():
            say(f"curves: {curves}")
        say(f"next: {_name_next(start, Path(str(best.best)))}  # writes report.html")


def _name_next(start: Start, best: Path) -> str:
    """Returns the command that tests a run, with the code that it names."""
    text, newest = start.given.text, start.given.root == Path() and newest_run(Path()) == run_folder(best)
    named = ((option, text.get(option, "")) for option in ("model.network", "data.source", "data.source.transform"))
    code = [word for option, name in named if "." in name.removeprefix("fmnist.") for word in (f"--{option}", name)]
    return shlex.join(["fmnist", "test", *([] if newest else ["--ckpt_path", str(best)]), *code])


class PrintSummary(Callback):
    """Prints network, data and folder of a run at its start; ``saved`` is what the run to continue says of its data."""

    def __init__(self, saved: dict[str, Any]) -> None:
        self.saved = saved

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the summary.

        Raises:
            UserError: An epoch has fewer batches than ``trainer.val_check_interval``.
        """
        if trainer.val_check_interval != 1.0:
            try:
                trainer.estimated_stepping_batches  # noqa: B018 - counts the batches
            except ValueError as error:
                raise UserError(str(error)) from error
        data: FashionMNISTDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert data.train_set is not None
        assert data.val_set is not None
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        parts = f"{len(data.train_set):,} training and {len(data.val_set):,} validation images"
        best = _find_best(trainer)
        say(f"network: {_describe_network(pl_module.network)}, {parameters:,} parameters")
        say(f"data: {parts} of {type(data.source).__name__}, split {data.split_digest}")
        if best and best.dirpath:
            say(f"run:  {Path(str(best.dirpath)).parent}")
        for line in find_problems(data, self.saved, "fit"):
            say(line)


def _describe_network(network: Any) -> str:
    """Returns the widths of a multilayer perceptron, or the name of another network."""
    if not isinstance(network, MLP):
        return type(network[-1]).__name__
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return "-".join(str(width) for width in [layers[0].in_features, *(layer.out_features for layer in layers)])


def _find_best(trainer: Trainer) -> RunCheckpoint | None:
    """Returns the callback that saves ``best.ckpt``; None without checkpoints."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)), None)


def _train(start: Start, trainer: Trainer, model: ImageClassifier, data: FashionMNISTDataModule) -> None:
    """Calls the trainer, with the checkpoint as it was read."""
    path, files = str(start.path) if start.checkpoint else None, trainer.strategy.checkpoint_io
    if path and isinstance(files, AtomicCheckpointIO):
        files.loaded = dict(start.checkpoint)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=path)
    except (SystemExit, KeyboardInterrupt):  # how Lightning ends after SIGTERM and Ctrl-C
        best = _find_best(trainer)
        if best and (folder := Path(str(best.dirpath))).is_dir():
            say(f"stopped; continue with: fmnist fit --ckpt_path {shlex.quote(str(folder.parent))}")
        raise


def _check_callbacks(trainer: Trainer, data: FashionMNISTDataModule) -> None:
    """Refuses to wait for a metric that no run has; a custom callback may log any."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    finds = any(isinstance(callback, LearningRateFinder) for callback in callbacks)
    check(not finds, "LearningRateFinder cannot set model.optimizer.lr: search for it with fmnist sweep")
    if all(type(callback).__module__.startswith(("lightning.", "fmnist.")) for callback in callbacks):
        for callback in callbacks:
            if isinstance(callback, EarlyStopping):
                validated = data.is_validated and trainer.limit_val_batches != 0
                known = sorted(name for name in LOGGED if validated or name.startswith("train/"))
                what = f"EarlyStopping watches {callback.monitor}, which this run does not have"
                check(callback.monitor in known, f"{what}: there are {', '.join(known)}")


def _check_continued(start: Start, trainer: Trainer, model: ImageClassifier) -> None:
    """Refuses what cannot be continued exactly, and prints what will be different."""
    before = start.planned or {}
    whole_epochs = trainer.max_steps == before.get("max_steps", -1) == -1
    check(whole_epochs, "a run with --trainer.max_steps cannot be continued: runs continue only after a whole epoch")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        searches, name = isinstance(callback, BatchSizeFinder | LearningRateFinder), type(callback).__name__
        check(not searches, f"{name} would search again: set the value that it found, and add --trainer.callbacks null")
    check("optimizer_states" in start.checkpoint, f"{start.path} cannot be continued: it has no optimizer")
    start.announce(name_device(trainer))
    if start.planned is None:
        say("note: the checkpoint is outside a run, so its settings are unknown: those of this command are used")
    planned, now = before.get("max_epochs"), trainer.max_epochs
    if planned not in (None, now):
        constant = model.hparams["lr_schedule"] == "constant" and not model.hparams["warmup_ratio"]
        rest = "" if constant else ": the learning rate follows the schedule of the new length"
        say(f"note: the run was planned for {planned} epochs and is now for {now}{rest}")
