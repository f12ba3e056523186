"""How Lightning's Trainer is set up for the command line."""

import sys
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.plugins.io import CheckpointIO

from fmnist.devices import find_device, has_bfloat16
from fmnist.errors import check
from fmnist.training.checkpoints import AtomicCheckpointIO, RunCheckpoint
from fmnist.training.history import History, name_epoch


def complete(config: Namespace, fits: bool) -> tuple[dict[str, Any], list[Callback]]:
    """Returns arguments that replace a trainer's settings, and callbacks that join theirs; ``fits``: it will train."""
    check(not config.barebones, "trainer.barebones would leave neither metrics nor a checkpoint: leave it out")
    callbacks: list[Callback] = [History()] if fits else []
    if fits and config.enable_checkpointing is not False:
        callbacks.append(RunCheckpoint())
    arguments: dict[str, Any] = {} if fits else {"logger": False}  # an evaluation logs nothing
    plugins = arguments["plugins"] = _as_list(config.plugins)
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()  # which Lightning prefers
    if slurm and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins.append(SLURMEnvironment(auto_requeue=False))  # which would save, and resume, in the middle of an epoch
    if not any(isinstance(callback, ProgressBar) for callback in _as_list(config.callbacks)):
        shown = config.enable_progress_bar is not False and sys.stdout.isatty()
        arguments["enable_progress_bar"] = shown
        callbacks += [EpochBar(refresh_rate=20)] if shown else []
    return arguments, callbacks


def settle_precision(config: Namespace) -> str | None:
    """Sets float32 where bfloat16 would be emulated, many times slower; returns a note for the user, if any."""
    precision, device = str(config.precision), find_device(config.accelerator)
    if precision == "bf16-true":
        return "warning: bf16-true rounds the weights themselves to 3 digits: bf16-mixed is more accurate"
    asked = ("bf16", "bf16-mixed", *(("16", "16-mixed") if device == "cpu" else ()))  # Lightning takes bf16 there
    if precision not in asked or device is None or has_bfloat16(device):
        return None
    config.precision = "32-true"  # what is done is what is written down
    return f"note: this {device} device has no bfloat16: 32-true instead of {precision}"


def check_strategy(trainer: Trainer, config: Namespace) -> None:
    """Raises a ``UserError`` for strategies that fail in the middle of training, or lose its results."""
    apart = str(config.strategy).endswith(("spawn", "fork", "notebook"))
    check(not apart, "trainer.strategy: results of spawned or forked processes are lost: use ddp")
    on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.world_size > 1
    check(not (config.sync_batchnorm and on_cpu), "trainer.sync_batchnorm works only on GPUs: leave it out")


def _as_list(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list) else [] if value is None else [value]


class EpochBar(TQDMProgressBar):
    """Lightning's progress bar for one epoch, counted from one; ``History`` prints the metrics above it."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns no metrics: the bar would not fit a terminal."""
        return {}

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Names the epoch."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(name_epoch(trainer.current_epoch + 1, trainer.max_epochs))
