"""LightningCLI for the commands that need a Trainer. It wires; what a command does is in its own file."""

import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # lightning 2.6 calls deprecated functions

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from fmnist.cli import evaluate, fit, predict
from fmnist.cli.console import quiet, say
from fmnist.cli.options import CHECKPOINT, help_texts
from fmnist.cli.parser import (
    CHECKPOINTS,
    DEFAULT_SOURCE,
    HELP,
    Config,
    Parser,
    add_trainer_arguments,
    as_typed,
    first_line,
)
from fmnist.cli.resolve import find_start, look
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.devices import check_device
from fmnist.errors import UserError, check
from fmnist.model.network import MLP_SETTINGS
from fmnist.runs.folder import check_name
from fmnist.training.checkpoints import dump_settings
from fmnist.training.classifier import ImageClassifier
from fmnist.training.optimization import DEFAULT as DEFAULT_OPTIMIZER
from fmnist.training.optimization import find_optimizer
from fmnist.training.trainer import check_strategy, complete, settle_precision


class Verb(NamedTuple):
    """What the commands with a Trainer differ in."""

    run: Callable[..., None]
    example: str
    add_arguments: Callable[[Any], None] = lambda parser: None


HINT = "hint: --print_config shows every setting that there is"
OF_DATA = {  # settings of the model that the data decides
    "class_names": "model.class_names are those of the data: leave them out, or rename them with --data.class_map",
    "image_shape": "model.image_shape is that of the data: give --data.source.image_size and .color instead",
}
VERBS = {
    "fit": Verb(fit.fit, fit.EXAMPLE, fit.add_arguments),
    "validate": Verb(evaluate.validate, evaluate.VALIDATE_EXAMPLE),
    "test": Verb(evaluate.test, evaluate.TEST_EXAMPLE, evaluate.add_arguments),
    "predict": Verb(evaluate.predict, predict.EXAMPLE, predict.add_arguments),
}
# What libraries raise for a machine or an installation that lacks something, at any time
LACKING = (MisconfigurationException, ImportError, NotImplementedError, torch.distributed.DistError)
# What classes raise for the settings they are made with
REFUSED = (*LACKING, AttributeError, RuntimeError, TypeError, ValueError)


def run(command: str, description: str, argv: list[str]) -> None:
    """Runs a command, with its one-line description and its arguments."""
    quiet()
    try:
        Command(command, description, argv).run()
    except (MemoryError, torch.OutOfMemoryError) as error:
        line = first_line(error)
        raise UserError(f"out of memory: use a smaller network or a smaller --data.batch_size: {line}") from error
    except LACKING as error:
        raise UserError(first_line(error)) from error
    except RuntimeError as error:
        if not torch.distributed.is_initialized():
            raise
        hint = "; continue with: fmnist fit --ckpt_path last" if command == "fit" else ""
        line = f"another process of this command has died, or this one cannot continue: {first_line(error)}"
        raise UserError(f"{line}{hint}") from error


class Command(LightningCLI):
    """LightningCLI for one command; its checkpoint is found before its options are parsed."""

    def __init__(self, command: str, description: str, argv: list[str]) -> None:
        self.command = command
        self.start = find_start(command, argv)
        given = {name: value for name, value, _ in self.start.given.options}  # the last of each
        limits = ("trainer.max_steps.", "trainer.max_time.")
        limited = any(str(given[name]) not in ("-1", "None", "null") for name in given if f"{name}.".startswith(limits))
        super().__init__(
            ImageClassifier,
            FashionMNISTDataModule,
            save_config_callback=None,  # the run is claimed with its settings
            trainer_defaults={
                "max_epochs": -1 if limited else 10,  # as for Trainer
                "devices": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),  # what torchrun has started
                "num_nodes": int(os.environ.get("GROUP_WORLD_SIZE", 1)),
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            seed_everything_default=42,
            parser_kwargs={"command": command, **help_texts(command, description, VERBS[command].example, hint=HINT)},
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=argv,
            run=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Makes the parser, with the options that most people need first."""
        parser = Parser(**kwargs, calibrates=self.command == "test" and bool(self.start.others))
        parser.add_argument("-c", "--config", action=Config, help=HELP["config"])
        checkpoint = CHECKPOINTS.get(self.command, f"{CHECKPOINT}.")
        parser.add_argument("--ckpt_path", metavar="PATH", type=str, help=checkpoint)
        VERBS[self.command].add_arguments(parser)
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the settings of model, data and trainer, in the order of ``--help``."""
        builds = self.command == "fit"  # else the checkpoint says what to build
        parser.add_class_arguments(ImageClassifier, "model", fail_untyped=False, instantiate=builds)
        parser.add_lightning_class_args(FashionMNISTDataModule, "data")
        add_trainer_arguments(parser)
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sets the default classes, so that ``--data.source.root X`` is enough, and the data of the checkpoint."""
        saved = self.start.checkpoint.get("hyper_parameters", {}) if self.command == "fit" else {}
        plain = inspect.signature(ImageClassifier).parameters.keys() - {"network", "optimizer", *OF_DATA}
        model = {f"model.{name}": value for name, value in saved.items() if name in plain}  # nothing to be imported
        optimizer = {"model.optimizer": _as_default(saved.get("optimizer"))}
        parser.set_defaults({**DEFAULT_SOURCE, **optimizer, **model, **self.start.data})
        for name, line in OF_DATA.items() if self.command == "fit" else ():
            # a checkpoint has values of its own, which are compared before its weights are loaded
            check(not self.start.given.has_typed(f"model.{name}"), line)
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments, with the checkpoint's values as defaults."""
        assert isinstance(parser, Parser)
        self.config = parser.parse_given(self.start.given)
        trainer, name = self.config.trainer, self.config.get("name")
        trainer.callbacks = as_typed(trainer.callbacks)
        if note := settle_precision(trainer):
            say(note, self.start.screen)
        seed = self.config.seed_everything
        check(0 <= seed < 2**32, f"seed_everything is {seed}: it must be at least 0 and below 2**32")
        if name is not None:
            check(not self.start.path.name, f"--name {name} is for a new run: leave it out where one is continued")
            check_name(name, self.start.given.root)
        if self.config.model.network is not None:
            self._drop_mlp_settings()
        if self.command != "fit":
            self._name_ignored_settings()

    def _drop_mlp_settings(self) -> None:
        """Refuses settings of the MLP that were typed for another network; those of a configuration are named."""
        model, defaults = self.config.model, self.parser.get_defaults().model
        network = _differing(model.as_dict()["network"], None)
        for flag in MLP_SETTINGS:
            what = f"model.{flag} is a setting of the MLP, not of {network}"
            check(
                not self.start.given.has_typed(f"model.{flag}"),
                f"--{what}: give settings of that network as --model.network.SETTING",
            )
            if _plain(model[flag]) != _plain(defaults[flag]):
                say(f"note: {what}, and is not used", self.start.screen)
                model[flag] = defaults[flag]

    def _name_ignored_settings(self) -> None:
        """Prints which settings of the model differ from those of the checkpoint, which decides."""
        given = {name.split(".")[1] for name, *_ in self.start.given.options if name.startswith("model.")}
        saved = self.start.checkpoint.get("hyper_parameters", {})
        for name in sorted(given & saved.keys() - {"network", "optimizer", "weights"}):
            value = self.config.model[name]
            if value is not None and _plain(value) != _plain(saved[name]):
                say(f"note: model.{name} is {saved[name]}, as in the checkpoint, not {value}", self.start.screen)

    def before_instantiate_classes(self) -> None:
        """Writes down the settings of a run, and leaves out weights to start from where a checkpoint has newer ones.

        Raises:
            UserError: A configuration sets what the data decides.
        """
        if self.command == "fit":
            for name, line in OF_DATA.items():
                check(not self.config.model.get(name), line)
            self.config_yaml = dump_settings(self.parser, self.config)
        if self.start.checkpoint:
            self.config.model.weights = None
            for name in ("mean", "std"):  # measured, where they were not given
                if self.config.model[name] is None:
                    self.config.model[name] = self.start.checkpoint["hyper_parameters"][name]

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer; an evaluation builds its model as its checkpoint says.

        Raises:
            UserError: A class refuses its settings, or a run is to be continued with another model.
        """
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except REFUSED as error:
            raise UserError(first_line(error)) from error
        if self.command != "fit":
            return
        for name, saved in self.start.checkpoint.get("hyper_parameters", {}).items():
            now = self.model.hparams.get(name)
            same = name in (*OF_DATA, "weights") or _plain(now) == _plain(saved)
            what = f"{self.start.path} was trained with model.{name} {_differing(saved, now)}"
            check(same, f"{what}, not {_differing(now, saved)}: a continued run keeps its own settings")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with what every run must have."""
        config = self.config_init.trainer
        check_device(config.accelerator)
        arguments, self.trainer_defaults["callbacks"] = complete(config, self.command == "fit")
        trainer = super().instantiate_trainer(**kwargs, **arguments)
        check_strategy(trainer, config)
        return trainer

    def run(self) -> None:
        """Does what the command is for."""
        built = [self.model, self.datamodule, self.config_yaml] if self.command == "fit" else [self.datamodule]
        VERBS[self.command].run(self.start, self.config_init, self.trainer, *built)


class _Parsed(Command):
    """Parses the arguments and does no more."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""


def parse_fit(commands: list[list[str]]) -> list[Namespace]:
    """Parses what would be typed after ``fit``, and trains nothing.

    Raises:
        UserError: One of the commands has an option or a value that is not accepted.
    """
    quiet()
    parser: Any = _Parsed("fit", "train", commands[0]).parser
    return [parser.parse_given(look(argv)) for argv in commands]


def _as_default(described: Any) -> Any:
    """Returns the optimizer of a checkpoint if it is one of torch's with plain settings, else the default."""
    made = find_optimizer(str(described.get("class_path"))) if isinstance(described, dict) else None
    given = described.get("init_args") or {} if made else {}
    plain = isinstance(given, dict) and all(
        str(name).isidentifier() and _imports_nothing(value) for name, value in given.items()
    )
    return {"class_path": f"torch.optim.{made.__name__}", "init_args": given} if made and plain else DEFAULT_OPTIMIZER


def _imports_nothing(value: Any) -> bool:
    """Returns whether the parser cannot take a value for the path of a class, which it would import."""
    if isinstance(value, list | tuple):
        return all(map(_imports_nothing, value))
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


def _differing(described: Any, other: Any) -> Any:
    """Returns what a setting is; of the same class with other settings those that differ."""
    if not (isinstance(described, dict) and isinstance(other, dict) and described["class_path"] == other["class_path"]):
        return described["class_path"] if isinstance(described, dict) else described
    now = other.get("init_args", {})
    return {key: value for key, value in described.get("init_args", {}).items() if now.get(key) != value}
