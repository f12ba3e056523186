"""Which errors of the libraries are about settings, and the line that is said of them."""

import sys
import traceback

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

LIBRARIES = ("lightning", "torch", "torchmetrics", "jsonargparse")
KINDS = (AttributeError, ImportError, RuntimeError, TypeError, ValueError)  # how they refuse a setting


def explain(error: Exception, verb: str) -> str | None:
    """Returns one line on what the user can mend; None if the error is a bug, of this package or of the user's code.

    Args:
        error: What ended the command.
        verb: The verb.
    """
    if _is_out_of_memory(error):
        return f"out of memory: take a smaller network, a smaller --data.batch_size or another device: {_line(error)}"
    if isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        hint = "; continue with: python -m fmnist fit --ckpt_path last" if verb == "fit" else ""
        return f"another process of this command has ended: see what it said{hint}"
    while error.__cause__ and isinstance(error.__cause__, Exception):  # jsonargparse wraps what a class has raised
        error = error.__cause__
    if isinstance(error, MisconfigurationException):
        return str(error)
    return f"trainer: {_line(error)}" if isinstance(error, KINDS) and _is_refusal(_modules(error)) else None


def _is_refusal(modules: list[str]) -> bool:
    """Tells whether a library has refused what the command line gave it, from the modules an error came through.

    Lightning may refuse it as late as when our own classes ask it for something; what torch raises then is a bug.
    """
    inner = [module for module in modules if module.startswith("fmnist.") and not module.startswith("fmnist.cli.")]
    roots = [module.partition(".")[0] for module in modules]
    known = all(root in (*LIBRARIES, "fmnist") or root in sys.stdlib_module_names for root in roots)
    return known and (roots[-1] == "lightning" or (roots[-1] in LIBRARIES and not inner))


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _modules(error: Exception) -> list[str]:
    """Returns the modules that the error came through, the one that raised it last."""
    return [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]


def _line(error: Exception) -> str:
    """Returns the first line of what an error says, and which part of Lightning was in charge."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    part = next((module for module in reversed(_modules(error)) if module.startswith("lightning.")), "")
    return f"{lines[0][:300]} ({part})" if part else lines[0][:300]
