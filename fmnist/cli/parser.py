"""The command line's parser: one line for a mistake, a page for --help."""

import argparse
import re
from enum import Enum
from typing import Any, NoReturn

import torch
from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from fmnist.cli.plain import suggest
from fmnist.data.sources import folder, mnist, parquet, table  # noqa: F401 - their classes can be typed by name
from fmnist.errors import UserError
from fmnist.runs.settings import RETIRED

# What --help shows of the trainer's fifty flags
EVALUATION_FLAGS = {f"trainer.{flag}" for flag in ("accelerator", "devices", "precision", "default_root_dir")}
TRAINING_FLAGS = {
    f"trainer.{flag}"
    for flag in (
        *("accelerator", "devices", "num_nodes", "precision", "max_epochs", "accumulate_grad_batches"),
        *("gradient_clip_val", "callbacks", "logger", "enable_progress_bar", "fast_dev_run", "default_root_dir"),
    )
}
TITLES = {"ckpt_path": "checkpoint", "trainer": "trainer", "model": "model", "data": "data"}
HELP = {
    "config": "Configuration file; what is typed after it wins.",
    "seed_everything": "Seed of the weights, the order of the images, dropout and augmentation.",
    "ckpt_path": "A checkpoint or a run, by its path; or 'best' or 'last' of the newest run.",
    "trainer.accelerator": "Kind of device: auto, cpu, gpu or mps.",
    "trainer.devices": "Number of devices, or a list of them; 'auto' takes all.",
    "trainer.precision": "Arithmetic: 32-true, bf16-mixed, 16-mixed or 64-true.",
    "trainer.logger": "Another logger than TensorBoard's, or false.",
    "trainer.callbacks": "Callbacks; --trainer.callbacks+=EarlyStopping adds one.",
    "trainer.fast_dev_run": "Run this many batches and no more, to find mistakes early.",
    "trainer.default_root_dir": "Folder that holds lightning_logs.",
}
DEFAULT_SOURCE = {"data.source": {"class_path": "fmnist.FashionMNIST"}}


class _HelpFormatter(DefaultHelpFormatter):
    """Leaves out types and lists of known classes, which are longer than everything else together."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.option_strings and action.default not in (None, argparse.SUPPRESS)
        return f"{action.help or ''}{' (default: %(default)s)' if shown else ''}"


class Parser(LightningArgumentParser):
    """Reports a mistake as one line, with the nearest option for an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # without abbreviations, a misspelt option is not taken for another
        super().__init__(*args, allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)

    def accept_retired(self) -> None:
        """Reads settings that a configuration of before may have; ``parse_args`` leaves them out again."""
        for part, names in RETIRED.items():
            for name in names:
                self.add_argument(f"--{part}.{name}", type=Any, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses the command line."""
        config = super().parse_args(*args, **kwargs)
        for part, names in RETIRED.items():
            for name in names:
                for where in (config, config.get(config.get("subcommand"), {})):
                    where.get(part, {}).pop(name, None)
        return config

    def format_help(self, *args: Any) -> str:
        """Shows what most people need, in a sentence each."""
        trains = "fmnist fit" in (self.usage or "")
        flags = TRAINING_FLAGS if trains else EVALUATION_FLAGS
        for action in self._actions:
            action.help = HELP.get(action.dest, action.help)
            group = action.dest.partition(".")[0]
            if (
                (group == "trainer" and action.dest not in flags)
                or (group == "model" and not trains)
                or action.dest.endswith(".help")
                or action.dest in ("model", "data")
            ):
                action.help = argparse.SUPPRESS
            elif action.help and action.help != argparse.SUPPRESS:
                action.help = re.split(r"(?<=[.])\s|\n\n", action.help)[0]
        for section in self._action_groups:
            shown = (action for action in section._group_actions if action.help != argparse.SUPPRESS)
            names = {action.dest.partition(".")[0] for action in shown}
            section.title = next((title for name, title in TITLES.items() if name in names), section.title)
        if any(action.dest == "config" for action in self._actions):
            self.epilog = f"{self.epilog}; --print_config shows every setting there is"
        return super().format_help(*args)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the mistake as a ``UserError``."""
        unknown = re.search(r"does not accept option '([^']+)'|[Uu]nrecognized arguments: --([^\s=]+)", message)
        if unknown:
            name = unknown[1] or unknown[2]
            options = getattr(ex, "subcommand_parser", self).get_defaults().keys(branches=True)
            message = suggest(name, options)
        raise UserError(message[:400]) from ex


def as_typed(value: Any) -> Any:
    """Writes settings that are Lightning's own defaults as one would type them: Timer has an enum, averaging a device.

    Args:
        value: What has been parsed; neither could be saved or validated again.
    """
    if isinstance(value, Namespace):
        return Namespace(**{key: as_typed(item) for key, item in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, list):
        return [as_typed(item) for item in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, torch.device) else value
