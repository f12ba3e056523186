"""LightningCLI for the verbs that need a Trainer. It wires; what a verb does stands in its own file."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # lightning 2.6 calls deprecated functions

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from fmnist.cli import evaluate, fit, predict
from fmnist.cli.failure import explain
from fmnist.cli.parser import DEFAULT_SOURCE, Parser, as_typed
from fmnist.cli.screen import quiet, say
from fmnist.cli.start import find_start, scan
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.errors import UserError, check
from fmnist.model.trained import MLP_SETTINGS
from fmnist.runs.settings import RETIRED
from fmnist.training.checkpoints import dump_settings
from fmnist.training.classifier import ImageClassifier
from fmnist.training.optimization import DEFAULT as DEFAULT_OPTIMIZER
from fmnist.training.trainer import check_strategy, complete, emulates_half


class Verb(NamedTuple):
    """What the verbs of the Trainer differ in."""

    run: Callable[..., None]
    example: str
    add_arguments: Callable[[Any], None] = lambda parser: None


NAMES_OF_DATA = "model.class_names are those of the data: leave them out, or rename them with --data.class_map"
VERBS = {
    "fit": Verb(fit.fit, fit.EXAMPLE, fit.add_arguments),
    "validate": Verb(evaluate.validate, evaluate.VALIDATE_EXAMPLE),
    "test": Verb(evaluate.test, evaluate.TEST_EXAMPLE, evaluate.add_arguments),
    "predict": Verb(predict.predict, predict.EXAMPLE, predict.add_arguments),
}


def run(verb: str, description: str, argv: list[str]) -> None:
    """Runs a verb, described in a few words, with what was typed after it."""
    quiet()
    if verb != "fit" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up; a training is stopped by Lightning
    try:
        Command(verb, description, argv)
    except (UserError, OSError):
        raise
    except Exception as error:
        line = explain(error, verb)
        if line is None:
            raise
        raise UserError(line) from error


class Command(LightningCLI):
    """LightningCLI for one verb, with what was found before its options are read.

    Args:
        verb: One of ``VERBS``.
        description: What it does, in a few words.
        argv: What was typed after it.
    """

    def __init__(self, verb: str, description: str, argv: list[str]) -> None:
        self.verb = verb
        self.start = find_start(verb, argv)
        setattr(self, verb, self._run)  # LightningCLI prefers it to the Trainer's method of this name
        texts = {"usage": f"fmnist {verb} [options]", "description": f"{description[0].upper()}{description[1:]}."}
        super().__init__(
            ImageClassifier,
            FashionMNISTDataModule,
            save_config_callback=None,  # the run is claimed with its settings
            trainer_defaults={
                "max_epochs": 10,
                "devices": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),  # what torchrun has started
                "num_nodes": int(os.environ.get("GROUP_WORLD_SIZE", 1)),
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            seed_everything_default=42,
            parser_kwargs={verb: {**texts, "epilog": f"example: {VERBS[verb].example}"}},
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=[verb, *argv],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Returns this verb alone: building the options of the others would take seconds."""
        return {self.verb: super().subcommands()[self.verb] | {"verbose", "weights_only", "return_predictions"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Names the default classes, so that ``--data.source.root X`` works by itself, and links the class names."""
        parser.set_defaults({**DEFAULT_SOURCE, "model.optimizer": DEFAULT_OPTIMIZER})
        parser.accept_retired(*RETIRED)  # type: ignore[attr-defined]
        if self.verb == "fit":  # a checkpoint has names of its own, which are compared before its weights are loaded
            check(not self.start.has_typed("--model.class_names"), NAMES_OF_DATA)
            parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        VERBS[self.verb].add_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the words typed, on top of the settings of the run that the checkpoint belongs to."""
        start, words = self.start, [self.verb, *self.start.words]
        if start.path.name:
            inherited = ["--config", json.dumps(start.settings)]
            words = [
                self.verb,
                *inherited,
                *start.words,
                "--ckpt_path",
                str(start.path) if start.checkpoint else "null",
            ]
        try:
            self.config = parser.parse_args(words)
        except UnicodeDecodeError as error:
            raise UserError(f"a configuration file is not text: {error}") from error
        trainer = self.config[self.verb].trainer
        trainer.callbacks = as_typed(trainer.callbacks)
        if emulates_half(trainer):
            say(f"notice: this processor has no bfloat16: 32-true instead of {trainer.precision}")
            trainer.precision = "32-true"  # what is done is what is written down
        self._check_flat_flags()
        seed = self.config[self.verb].seed_everything
        check(0 <= seed < 2**32, f"seed_everything is {seed}: it must be at least 0 and below 2**32")
        name = self.config[self.verb].get("name")
        new = name is None or not start.path.name
        check(new, f"--name {name} is for a new run: leave it out where one is continued")

    def _check_flat_flags(self) -> None:
        """Drops the settings of the MLP where there is another network: typed they are a mistake, else a leftover."""
        model = self.config[self.verb].model
        if model.network is None:
            return
        name, defaults = _name(model.as_dict()["network"]), self._parser(self.verb).get_defaults().model
        for flag in MLP_SETTINGS:
            typed = self.start.has_typed(f"--model.{flag}")
            check(not typed, f"--model.{flag} is of the MLP, not of {name}, whose own are --model.network.SETTING")
        other = [flag for flag in MLP_SETTINGS if _plain(model[flag]) != _plain(defaults[flag])]
        if other:
            say(f"notice: {', '.join(other)} of the configuration are of the MLP: {name} is trained without")
            for flag in other:
                model[flag] = defaults[flag]

    def _parse_ckpt_path(self) -> None:
        """Takes the model's settings from the checkpoint, and names those that were asked to differ."""
        if not self.start.checkpoint:
            return
        asked = self.config[self.verb].model.as_dict()
        kept = {"network": None, **self.start.checkpoint["hyper_parameters"]}
        del kept["weights"]
        del kept["class_names" if self.verb == "fit" else "optimizer"]  # is not used, so it is not imported
        self.config = self.parser.parse_object({self.verb: {"model": kept}}, self.config)
        defaults = self._parser(self.verb).get_defaults().model.as_dict()
        for name in kept:
            value = self.config[self.verb].model.as_dict()[name]
            if name == "network" and (self.start.others or _name(asked[name]) == _name(value)):  # it had to be named
                continue
            typed = self.start.has_typed(f"--model.{name}")
            if asked[name] != value and (typed or asked[name] != defaults[name]):
                for setting, is_, was in _differences(f"model.{name}", value, asked[name]):
                    say(f"notice: {setting} stays {is_}, as in the checkpoint ({was} was given)")

    def before_instantiate_classes(self) -> None:
        """Leaves out the weights that a run began with, where it is continued from newer ones.

        Raises:
            UserError: A configuration names the classes.
        """
        if self.verb == "fit":
            check(not self.config.fit.model.get("class_names"), NAMES_OF_DATA)
            self.config_yaml = dump_settings(self._parser("fit"), self.config.fit)
        if self.start.checkpoint:
            self.config[self.verb].model.weights = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with what every run must have."""
        config = self.config_init[self.verb].trainer
        arguments, self.trainer_defaults["callbacks"] = complete(config, self.verb == "fit")
        trainer = super().instantiate_trainer(**kwargs, **arguments)
        check_strategy(trainer, config)
        return trainer

    def _run(self, model: ImageClassifier, datamodule: FashionMNISTDataModule, **_: Any) -> None:
        settings = self.config_init[self.verb]
        written = {"config": self.config_yaml} if self.verb == "fit" else {}
        VERBS[self.verb].run(self.start, settings, self.trainer, model, datamodule, **written)


class _Parsed(Command):
    """Reads the words and does no more."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parse_fit(commands: list[list[str]]) -> list[Namespace]:
    """Reads what would be typed after ``fit``, and trains nothing.

    Raises:
        UserError: One of the commands has an option or a value that is not accepted.
    """
    quiet()
    cli = _Parsed("fit", "train", commands[0])
    for words in commands:
        scan(words)  # code of one's own is found from here on
    return [cli.parser.parse_args(["fit", *words]).fit for words in commands]


def _name(network: Any) -> Any:
    return network["class_path"] if isinstance(network, dict) else network


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _differences(setting: str, kept: Any, given: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields what differs of a setting: of the same class the settings that both have, else the class."""
    if not isinstance(kept, dict) or not isinstance(given, dict) or _name(kept) != _name(given):
        yield setting, _name(kept), _name(given)
    else:
        both = kept["init_args"].keys() & given["init_args"].keys()
        pairs = ((name, kept["init_args"][name], given["init_args"][name]) for name in sorted(both))
        yield from ((f"{setting}.{name}", one, other) for name, one, other in pairs if one != other)
