"""Printing: lines of the first process, and messages of libraries that are left out."""

import logging
import sys
import threading
import warnings
from functools import cache
from typing import TYPE_CHECKING, TextIO

from fmnist.files import expand
from fmnist.text import plain

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line on the first process of a command, without control characters: names may be a stranger's."""
    if "lightning.pytorch" in sys.modules:  # without it there is one process
        from lightning.pytorch.utilities import rank_zero_only

        if getattr(rank_zero_only, "rank", 0) != 0:
            return
    print(plain(text), file=file, flush=True)


@cache
def announce_bundled(name: str, path: str) -> None:
    """Prints, once, that a configuration of the package is used, since there is no file of this name here."""
    if path != str(expand(name)):
        say(f"using the bundled config {name}", sys.stderr)


def name_device(trainer: "Trainer") -> str:
    """Names what a trainer computes on, such as ``cpu`` or ``2 x cuda``."""
    count = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    return f"{count}{trainer.strategy.root_device.type}"


def quiet() -> None:
    """Silences what libraries say of their own affairs."""
    threading.excepthook = _report_thread
    warnings.filterwarnings("ignore", module=r"PIL\..*")  # remarks on odd metadata
    for name in ("pytorch.utilities.rank_zero", "pytorch.accelerators.cuda", "fabric.utilities"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images in memory need none
        ".*smaller than the logging interval.*",  # metrics are logged once an epoch
        ".*sync_dist=True.*",  # the metrics are synchronized by themselves
        ".*could not find the monitored key.*",  # epochs before the first validation
        ".*(length of `list` across ranks is zero|have no `val_dataloader`).*",  # val_size: 0
        ".*isinstance.treespec, LeafSpec.*",  # Lightning's use of torch
        r"\s*Unable to serialize instance",  # a text for a function, as ModelPruning takes it
        ".*Checkpoint directory .* exists and is not empty.*",  # that of a continued run
        ".*WeightAveraging doesn't support sharding.*",  # a network this small is never sharded
    ):
        warnings.filterwarnings("ignore", message)


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """Leaves out a disk that fails under TensorBoard's thread: training stops with the same error."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
