"""The parser of the commands that have settings of training or of data."""

import argparse
import inspect
import re
import textwrap
from enum import Enum
from typing import Any, NoReturn

import torch
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    DefaultHelpFormatter,
    Namespace,
    _typehints,
    set_dumper,
    set_parsing_settings,
)
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from fmnist.cli.options import CHECKPOINT, TAKE_SEVERAL, help_texts, refuse_stray, suggest
from fmnist.cli.resolve import Given, Option, read_config
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.data.sources import folder, parquet, table, torchvision  # noqa: F401 - their classes can be typed by name
from fmnist.errors import UserError, check
from fmnist.names import import_code
from fmnist.runs.settings import SHARED_KEYS, write_settings

# What --help shows of the trainer's fifty flags
EVALUATION_FLAGS = ("accelerator", "devices", "precision", "default_root_dir")
TRAINING_FLAGS = (
    *EVALUATION_FLAGS,
    *("max_epochs", "accumulate_grad_batches", "gradient_clip_val", "callbacks", "logger"),
    *("enable_progress_bar", "fast_dev_run"),
)
# The trainer's flags that do nothing without training
TRAINING_ONLY = {
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "logger"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "detect_anomaly", "sync_batchnorm"),
    *("enable_checkpointing", "enable_model_summary", "reload_dataloaders_every_n_epochs"),
}
# The settings of the data that do something, for each command that does not train
DATA_SETTINGS = {
    "validate": {"source", "val_size", "num_workers", "split_seed", "class_map", "fold"},
    "test": {"source", "num_workers", "class_map"},
    "predict": {"source", "num_workers", "class_map"},
    "prepare": {"source", "val_size", "split_seed", "class_map", "fold"},
    "audit": {"source"},
}
HELP = {
    "config": "YAML file with settings; later options override it.",
    "print_config": "Print every setting, and exit.",
    "seed_everything": "Seed of the weights, the order of the images, dropout and augmentation.",
    "trainer.accelerator": "Kind of device: auto, cpu, gpu or mps.",
    "trainer.devices": "Number of devices, or a list of them; 'auto' takes all.",
    "trainer.precision": "Arithmetic: 32-true, bf16-mixed, 16-mixed or 64-true.",
    "trainer.max_epochs": "Passes over the training images.",
    "trainer.accumulate_grad_batches": "Accumulate gradients over this many batches per step.",
    "trainer.gradient_clip_val": "Largest norm of the gradients in a step; none if not given.",
    "trainer.callbacks": "Lightning callbacks; --trainer.callbacks+=EarlyStopping adds one.",
    "trainer.logger": "Logger to use instead of TensorBoard; false for none.",
    "trainer.enable_progress_bar": "Show a progress bar on a terminal.",
    "trainer.fast_dev_run": "Smoke test: run this many batches, then stop.",
    "trainer.default_root_dir": "Folder that holds lightning_logs.",
    "model.hidden_dims": "Width of each hidden layer, such as [512,512].",
    "model.optimizer": "Optimizer of torch.optim; its settings are --model.optimizer.lr and so on,"
    " listed by --model.optimizer.help SGD.",
    "model.weights": "Checkpoint or run to start from.",
    "data.source": "Where the images come from: FashionMNIST, ImageFolder, CSV, Parquet or TorchVision;"
    " --data.source.help ImageFolder lists the settings of one.",
}
METAVARS = {"config": "FILE", "model.hidden_dims": "[N,...]"}
CHECKPOINTS = dict.fromkeys(TAKE_SEVERAL, f"{CHECKPOINT}. Several, or a folder of runs, form an ensemble.")
CHECKPOINTS["fit"] = "Your own run to continue, by its path or name, or 'last'; its config.yaml is used as by --config."
DEFAULT_SOURCE = {"data.source": {"class_path": "fmnist.FashionMNIST"}}
BATCHES = (
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("overfit_batches", "val_check_interval"),
)
OF_TORCH = re.compile(r"--model\.optimizer\.(params|.*\.help)")  # what is optimized; learning rates can be tensors
FILES = (".yaml", ".yml", ".json")
ALWAYS = {"c", "config", "h", "help", "print_config", "ckpt_path", "model.class_names", "model.image_shape"}


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows what most people need, without types and lists of known classes; of a class, all its settings."""

    command = ""

    def start_section(self, heading: str | None) -> None:
        """Begins a group with the first sentence of its class."""
        first = (heading or "").partition(". ")[0].replace("``", "")
        super().start_section(textwrap.fill(first, 78) or None)

    def add_argument(self, action: argparse.Action) -> None:
        """Adds an option, if the command's help has it."""
        if self.command and not _is_shown(action.dest, self.command):
            return
        if OF_TORCH.fullmatch(next(iter(action.option_strings), "")):
            return
        action.help = (HELP.get(action.dest) or action.help or "").replace("``", "'")
        if action.metavar is None and not action.choices and action.nargs != 0:
            action.metavar = METAVARS.get(action.dest, "X")
        action.option_strings = [option for option in action.option_strings if not option.endswith("+")]
        super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        """Returns the help of an option with its default; argparse has no other place to say which."""
        said = "(default:" in (action.help or "")  # torch's own text has it
        if not action.option_strings or said or action.default in (None, argparse.SUPPRESS):
            return (action.help or "").replace("%", "%%")
        return f"{action.help or ''} (default: {_as_text(action.default)})".replace("%", "%%")


class Config(ActionConfigFile):
    """``--config``, read as every configuration is: as UTF-8 whatever the locale is."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Merges the settings of a configuration with those before it."""
        self.apply_config(parser, cfg, self.dest, write_settings(read_config(values), allow_unicode=False))


class Parser(LightningArgumentParser):
    """A parser whose mistakes are ``UserError``s, with the nearest option for an unknown one.

    Args:
        command: The command; empty for the parser of the settings of a class.
        calibrates: Whether ``test`` is about an ensemble, which it calibrates on validation images.
    """

    def __init__(self, *args: Any, command: str = "", calibrates: bool = False, **kwargs: Any) -> None:
        self.command = command
        self.calibrates = calibrates
        kwargs.setdefault("usage", argparse.SUPPRESS)
        # without abbreviations, a misspelt option is not taken for another
        formatter = type("Formatter", (HelpFormatter,), {"command": command})
        super().__init__(*args, allow_abbrev=False, **{**kwargs, "formatter_class": formatter})
        set_dumper("yaml", write_settings)
        set_parsing_settings(instantiate_subclass_spec_in_any=False)  # classes of the model are not made by `prepare`
        _let_classes_start_from_their_defaults()

    def parse_given(self, given: Given) -> Any:
        """Parses the arguments of a command.

        Raises:
            UserError: A setting is unknown, does nothing for the command, or has a value that is not accepted.
        """
        keys = {key.replace(".init_args", "") for key in self.get_defaults().keys(branches=True)}
        for option in given.options:
            self._check(option, keys)
        config = self.parse_args(given.argv)
        for name in ("model.network", "model.optimizer", "data.source"):
            _check_complete(name, config.get(name))
        return config

    def _check(self, option: Option, keys: set[str]) -> None:
        """Refuses an option that the command does not have, or that does nothing for it."""
        name, value, typed = option
        if not name:
            refuse_stray(str(value))
        known = {key.removesuffix(".class_path") for key in keys} | ALWAYS
        has_class = {key.removesuffix(".class_path") for key in keys if key.endswith(".class_path")}
        branches = {key.rpartition(".")[0] for key in keys} - has_class
        parts = name.removesuffix(".help").split(".")
        outer = {".".join(parts[:count]) for count in range(1, len(parts))}
        if ".".join(parts) not in known and not outer & (known - branches):
            raise UserError(suggest(f"--{name}" if typed else name, known))
        file = str(value).endswith(FILES) and name.partition(".")[0] in SHARED_KEYS and name.count(".") < 2
        check(not file, f"{name} is {value}: give a file of settings with --config")
        check(not typed or self.uses(name), f"--{name} does nothing for {self.command}: leave it out")

    def uses(self, name: str) -> bool:
        """Returns whether an option, accepted because configurations have it, does something for the command."""
        part, _, rest = name.partition(".")
        first = rest.partition(".")[0]
        if self.command in ("", "fit", "prepare"):  # `prepare` in the place of `fit` shows the data of that run
            return True
        if part == "data":
            split = DATA_SETTINGS["validate"] if self.calibrates else ()
            return first in {"", *DATA_SETTINGS[self.command], *split}
        if part == "trainer" and self.command != "audit":
            return first not in TRAINING_ONLY
        if self.command == "audit":
            return part not in SHARED_KEYS or name.startswith("model.network")
        return part not in ("trainer", "seed_everything")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the mistake as a ``UserError``: the option, and why each type that it may have refuses its value."""
        what, *more = message.replace("Parser key ", "").splitlines()
        if more:
            cause = first_line(ex)
            others = dict.fromkeys(line.strip().removeprefix("- ") for line in more)  # a line for each type
            wanted = [line for line in others if line.startswith("Expected a") and line not in cause]
            what = f"{what} {'; or '.join([cause, *(line for line in wanted if 'NoneType' not in line)])}"[:400]
        if "is not accepted; there are root, download" in what:  # the settings of FashionMNIST
            what += "; for your own pictures: --config folder.yaml, csv.yaml or parquet.yaml"
        if not self.exit_on_error:  # of the settings of a class: the parser around this one adds the option's name
            known = f"; there are {', '.join(vars(self.get_defaults()))}" if isinstance(ex, KeyError) else ""
            raise argparse.ArgumentError(None, f"{what}{known}")
        raise UserError(what) from ex


def _is_shown(name: str, command: str) -> bool:
    part, _, rest = name.partition(".")
    if part == "trainer":
        return rest in (TRAINING_FLAGS if command == "fit" else EVALUATION_FLAGS)
    if command != "fit" and part in ("model", "data", "seed_everything"):
        return name == "model.network" or rest in DATA_SETTINGS[command]
    return bool(rest) == (part in ("model", "data")) and not name.endswith((".help", ".class_names", ".image_shape"))


def make_data_parser(command: str, description: str, example: str, operands: str = "") -> Parser:
    """Makes the parser of a command that has settings of the data only, and accepts any configuration."""
    parser = Parser(command=command, **help_texts(command, description, example, operands))
    parser.add_argument("-c", "--config", action=Config, help="Configuration file; only its data part counts.")
    parser.add_class_arguments(FashionMNISTDataModule, "data")
    parser.set_defaults(DEFAULT_SOURCE)
    for key in {*SHARED_KEYS} - {"data"}:
        parser.add_argument(f"--{key}", type=dict[str, Any] if key == "model" else Any, help=argparse.SUPPRESS)
    return parser


def add_trainer_arguments(parser: LightningArgumentParser) -> None:
    """Adds the settings of the trainer.

    Numbers of batches are added with types of their own: of Lightning's ``int | float`` jsonargparse tries float first,
    since ``typing`` may give back an equal type that was written in another order, and 1.0 means all batches.
    """
    skip: set[str | int] = {*BATCHES}
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True, skip=skip)
    defaults = inspect.signature(Trainer).parameters
    for name in BATCHES:
        parser.add_argument(f"--trainer.{name}", type=int | float | None, default=defaults[name].default)


def _check_complete(name: str, chosen: Any) -> None:
    """Refuses a class without a parameter that has neither a type nor a default: jsonargparse gives it None."""
    if not hasattr(chosen, "get") or "class_path" not in chosen:
        return
    made, settings = import_code(chosen["class_path"]), chosen.get("init_args") or {}
    for key, parameter in inspect.signature(made).parameters.items():
        untyped = parameter.default is parameter.annotation is parameter.empty
        missing = untyped and key in settings and settings[key] is None
        check(not missing, f"{name}: {chosen['class_path']} needs more: add --{name}.{key} VALUE")


def first_line(error: BaseException | None) -> str:
    """Returns the first line of the error that caused this one: jsonargparse wraps what a class has raised."""
    while error and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _as_text(value: Any) -> str:
    """Writes a value; of a class its name, and what it is given."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    if not hasattr(value, "get") or "class_path" not in value:
        return str(value)
    given = ", ".join(f"{name}={setting}" for name, setting in (value.get("init_args") or {}).items())
    name = str(value["class_path"]).rpartition(".")[2]
    return f"{name}({given})" if given else name


def as_typed(value: Any) -> Any:
    """Writes Lightning's own defaults as one would type them: the enum of Timer, a device; neither could be saved."""
    if isinstance(value, Namespace):
        return Namespace(**{key: as_typed(item) for key, item in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, list):
        return [as_typed(item) for item in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, torch.device) else value


def _let_classes_start_from_their_defaults() -> None:
    """Lets another class start from its own defaults.

    jsonargparse hands on those settings of the previous class that the new one happens to have as well, so that Adam
    would be given the learning rate of SGD: https://github.com/mauvilsa/jsonargparse/issues/460
    """
    assert hasattr(_typehints, "discard_init_args_on_class_path_change"), "jsonargparse has changed"
    _typehints.discard_init_args_on_class_path_change = _discard


def _discard(parser_or_action: Any, before: Any, now: Any) -> None:
    if not before or before["class_path"] == now["class_path"]:
        return
    one, other = (import_code(str(spec["class_path"])) for spec in (before, now))
    if one is not other:
        before["init_args"] = Namespace()  # type: ignore[no-untyped-call]
        before.pop("dict_kwargs", None)
