"""The command line's parser: one line for a mistake, a page for --help."""

import argparse
import re
from enum import Enum
from typing import Any, NoReturn

import torch
from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from fmnist.cli.classes import list_classes, start_anew
from fmnist.cli.mistakes import explain
from fmnist.cli.plain import CHECKPOINT, TAKE_SEVERAL, nearest, suggest
from fmnist.data.sources import folder, parquet, table, torchvision  # noqa: F401 - their classes can be typed by name
from fmnist.errors import UserError

# What --help shows of the trainer's fifty flags
EVALUATION_FLAGS = {f"trainer.{flag}" for flag in ("accelerator", "devices", "precision", "default_root_dir")}
TRAINING_FLAGS = {
    f"trainer.{flag}"
    for flag in (
        *("accelerator", "devices", "precision", "max_epochs", "accumulate_grad_batches"),
        *("gradient_clip_val", "callbacks", "logger", "enable_progress_bar", "fast_dev_run", "default_root_dir"),
    )
}
# The settings of the data that do something, for each verb that does not train
DATA_FLAGS = {
    "validate": {"source", "val_size", "num_workers", "split_seed", "class_map", "fold"},
    "test": {"source", "num_workers", "class_map"},
    "predict": {"source", "num_workers", "class_map"},
    "prepare": {"source", "val_size", "split_seed", "class_map", "fold"},
    "audit": {"source"},
}
TITLES = {"ckpt_path": "checkpoint", "trainer": "trainer", "model": "model", "data": "data"}
HELP = {
    "config": "Configuration file; what is typed after it wins.",
    "seed_everything": "Seed of the weights, the order of the images, dropout and augmentation.",
    "ckpt_path": f"{CHECKPOINT}.",
    "trainer.accelerator": "Kind of device: auto, cpu, gpu or mps.",
    "trainer.devices": "Number of devices, or a list of them; 'auto' takes all.",
    "trainer.precision": "Arithmetic: 32-true, bf16-mixed, 16-mixed or 64-true.",
    "trainer.max_epochs": "Passes over the training images.",
    "trainer.accumulate_grad_batches": "Batches to make one step of.",
    "trainer.logger": "Another logger than TensorBoard's, or false.",
    "trainer.callbacks": "Callbacks; --trainer.callbacks+=EarlyStopping adds one, --trainer.callbacks.help lists them.",
    "trainer.fast_dev_run": "Run this many batches and no more, to find mistakes early.",
    "trainer.default_root_dir": "Folder that holds lightning_logs.",
}
HELP |= {
    "model.hidden_dims": "Width of each hidden layer, such as 512,512.",
    "model.weights": "A checkpoint or run to begin with.",
    "model.optimizer": "Optimizer, such as SGD; --model.optimizer.help lists them.",
    "data.source": "Where the images come from; --data.source.help lists the classes.",
}
CHECKPOINTS = dict.fromkeys(TAKE_SEVERAL, f"{CHECKPOINT}; several, or a folder of runs, are an ensemble.")
CHECKPOINTS["fit"] = (
    "Your own run to continue, by its path or name, or 'last'; its config.yaml is run as --config would."
)
WIDTHS = r"[(\[]?\s*\d+(\s*[,\s]\s*\d+)*\s*,?\s*[)\]]?"  # of layers, as people type them
DEFAULT_SOURCE = {"data.source": {"class_path": "fmnist.FashionMNIST"}}


class _HelpFormatter(DefaultHelpFormatter):
    """Leaves out types and lists of known classes, which are longer than everything else together."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if not action.option_strings or action.default in (None, argparse.SUPPRESS):
            return action.help or ""
        return f"{action.help or ''} (default: {_as_text(action.default).replace('%', '%%')})"


class Parser(LightningArgumentParser):
    """Reports a mistake as one line, with the nearest option for an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # without abbreviations, a misspelt option is not taken for another
        super().__init__(*args, allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        start_anew()

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *rest: Any, **kwargs: Any) -> list[str]:
        """Adds the options of a class; the model of an evaluation is built as its checkpoint says, not from them."""
        if nested_key == "model" and self.verb != "fit":
            options = {"fail_untyped": False, "sub_configs": True, "instantiate": False}
            names: list[str] = self.add_class_arguments(lightning_class, nested_key, **options)
            return names
        return super().add_lightning_class_args(lightning_class, nested_key, *rest, **kwargs)

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parses the command line."""
        if isinstance(args, list):
            args = _read_widths(args)
            list_classes(self._of_verb(), args)
        return super().parse_args(args, *rest, **kwargs)

    def _of_verb(self) -> "Parser":
        """Returns the parser that has the options: that of the verb, where LightningCLI makes one."""
        return next(iter(self._subcommands_action.choices.values())) if self._subcommands_action else self

    @property
    def verb(self) -> str:
        """The verb; empty for the parser that shows the settings of a class."""
        return next(iter(re.findall(r"^fmnist (\w+)", self.usage or "")), "")

    def _does_nothing(self, name: str) -> bool:
        """Tells whether a setting, accepted because configurations have it, is of no use to the verb."""
        part, _, rest = name.partition(".")
        if self.verb in ("", "fit"):
            return False
        if part == "data":
            return rest.partition(".")[0] not in {"", *DATA_FLAGS[self.verb]}
        return part in ("model", "seed_everything") and name != "model.network"

    def _is_shown(self, action: argparse.Action) -> bool:
        flags = TRAINING_FLAGS if self.verb == "fit" else EVALUATION_FLAGS
        if action.dest.endswith(".help") or action.dest in ("model", "data", "model.class_names"):
            return False
        hidden = action.dest.startswith("trainer.") and action.dest not in flags
        own = action.dest == "model.network" and self.verb != "fit"  # a name, to say that it is trusted
        return not (self._does_nothing(action.dest) or hidden or own) or not self.verb

    def format_help(self, *args: Any) -> str:
        """Shows what most people need, in a sentence each; of a class, all its settings."""
        if not self.verb:
            self.usage, name = argparse.SUPPRESS, (self.description or "").rpartition("=")[2]
            self.description = f"The settings of {name}."
        texts = HELP | {"ckpt_path": CHECKPOINTS.get(self.verb, HELP["ckpt_path"])}
        for action in self._actions:
            action.help = texts.get(action.dest, action.help)
            if not self._is_shown(action):
                action.help = argparse.SUPPRESS
            elif action.help and action.help != argparse.SUPPRESS:
                first = re.split(r"(?<!i\.e[.])(?<!e\.g[.])(?<=[.])\s|\n\n", action.help)[0]
                action.help = re.sub(r"\s*\([^()]*default:[^()]*\)\.?", "", first)
        for section in self._action_groups:
            shown = (action for action in section._group_actions if action.help != argparse.SUPPRESS)
            names = {action.dest.partition(".")[0] for action in shown}
            section.title = next((title for name, title in TITLES.items() if name in names), section.title)
        if any(action.dest == "config" for action in self._actions):
            self.epilog = f"{self.epilog}; --print_config shows every setting there is"
        return super().format_help(*args)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the mistake as a ``UserError``."""
        if getattr(self, "_inner_parser", False):  # of the settings of a class: another one knows which setting it is
            unknown = re.search(r"Option '([^']+)' is not accepted", message)
            near = nearest(unknown[1], [action.dest for action in self._actions]) if unknown else ""
            raise argparse.ArgumentError(None, f"{message}; near: {near}" if near else message) from ex
        unknown = re.search(r"does not accept option '([^']+)'|[Uu]nrecognized arguments: (-*)([^\s=]+)", message)
        if unknown and (unknown[1] or unknown[2]):
            message = getattr(ex, "subcommand_parser", self._of_verb())._suggest(unknown[1] or unknown[3], self.args)
        elif unknown:
            message = f"'{unknown[3]}' is not expected here: options begin with --; a list is one word, such as 256,128"
        else:
            message = explain(message)
        raise UserError(message) from ex

    def _suggest(self, name: str, words: list[str]) -> str:
        options = [key.replace(".init_args", "") for key in self.get_defaults().keys(branches=True)]
        near = nearest(name, options)
        if self._does_nothing(near):
            return f"there is no option '--{name}', and {near} is of no use to {self.verb}"
        typed = any(word.lstrip("-").partition("=")[0] == name for word in words)
        return suggest(name, options, typed)


def _as_text(value: Any) -> str:
    """Writes a value; of a class its name, and what it is given."""
    if not hasattr(value, "get") or "class_path" not in value:
        return str(value)
    given = ", ".join(f"{name}={setting}" for name, setting in (value.get("init_args") or {}).items())
    name = str(value["class_path"]).rpartition(".")[2]
    return f"{name}({given})" if given else name


def _read_widths(words: list[str]) -> list[str]:
    """Writes ``256``, ``256,128`` and ``(256, 128)`` as the list that is meant."""
    read = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--model.hidden_dims=") else ("", "", word)
        if (equals or before == "--model.hidden_dims") and re.fullmatch(WIDTHS, value):
            word = f"{option}{equals}[{', '.join(re.findall('[0-9]+', value))}]"
        read.append(word)
    return read


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
