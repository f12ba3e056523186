"""LightningCLI for the verbs that need a Trainer. It wires; what a verb does stands in its own file."""

import os
from collections.abc import Callable
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
from fmnist.model.network import MLP_SETTINGS
from fmnist.names import describe_code, import_code
from fmnist.training.checkpoints import dump_settings
from fmnist.training.classifier import ImageClassifier
from fmnist.training.optimization import DEFAULT as DEFAULT_OPTIMIZER
from fmnist.training.trainer import check_strategy, complete, settle_precision


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
    "predict": Verb(evaluate.predict, predict.EXAMPLE, predict.add_arguments),
}


def run(verb: str, description: str, argv: list[str]) -> None:
    """Runs a verb, described in a few words, with what was typed after it."""
    quiet()
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
        """Sets the default classes, so that ``--data.source.root X`` works alone, and the data of the checkpoint."""
        parser.set_defaults({**DEFAULT_SOURCE, "model.optimizer": DEFAULT_OPTIMIZER, **self.start.data})
        if self.verb == "fit":  # a checkpoint has names of its own, which are compared before its weights are loaded
            check(not self.start.has_typed("--model.class_names"), NAMES_OF_DATA)
            parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        VERBS[self.verb].add_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line; the checkpoint that was found replaces the one that was typed."""
        start, argv = self.start, [self.verb, *self.start.argv]
        if start.path.name:
            argv += ["--ckpt_path", str(start.path) if start.checkpoint else "null"]
        try:
            self.config = parser.parse_args(argv)
        except UnicodeDecodeError as error:
            raise UserError(f"a configuration file is not text: {error}") from error
        self._keep_model()
        trainer = self.config[self.verb].trainer
        trainer.callbacks = as_typed(trainer.callbacks)
        if note := settle_precision(trainer):
            say(note)
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
        """Keeps Lightning, whose method this is, from reading the checkpoint and parsing what it says."""

    def _keep_model(self) -> None:
        """Takes the settings of the model from the checkpoint, as plain values, and names those that were to differ.

        A training goes on with the network and the optimizer of its configuration, which must be the ones that the
        checkpoint describes. An evaluation builds its model without the parser.
        """
        if not self.start.checkpoint:
            return
        kept = {"network": None, **self.start.checkpoint["hyper_parameters"]}
        given, defaults = self.config[self.verb].model.as_dict(), self._parser(self.verb).get_defaults().model.as_dict()
        kept.pop("weights", None)
        if self.verb == "fit":
            kept.pop("class_names")  # those of the data, which are compared
            self._keep_code(kept, given)
            plain = {name: value for name, value in kept.items() if name not in ("network", "optimizer")}
            self.config = self.parser.parse_object({self.verb: {"model": plain}}, self.config)
        else:
            self.config[self.verb].model = self._parser(self.verb).get_defaults().model
            kept.pop("optimizer", None)
        for name in kept.keys() & given.keys():
            is_, was = _plain(kept[name]), _plain(given[name])
            if name == "network" and (self.start.others or is_ is not None):  # it had to be named
                continue
            typed = self.start.has_typed(f"--model.{name}")
            if is_ != was and (typed or was != _plain(defaults[name])):
                say(f"notice: model.{name} stays {_name(is_)}, as in the checkpoint ({_name(was)} was given)")

    def _keep_code(self, kept: dict[str, Any], given: dict[str, Any]) -> None:
        """Compares network and optimizer with what the checkpoint describes; numbers stay as they are in there.

        Raises:
            UserError: It was trained with others.
        """
        for part in ("network", "optimizer"):
            saved, chosen = kept[part], given[part]
            named = _name(chosen)
            path = describe_code(import_code(named) if isinstance(named, str) else named) if named else None
            what = f"{self.start.path} was trained with model.{part} {_name(saved)}, here is {named}"
            check(_name(saved) == path, f"{what}: a run goes on with its own")
            for name in _settings(saved).keys() & _settings(chosen).keys():
                is_, was = _plain(_settings(saved)[name]), _plain(_settings(chosen)[name])
                if is_ != was:
                    check(isinstance(is_, int | float | None) and part == "optimizer", f"{what} with another {name}")
                    self.config[self.verb].model.optimizer.init_args[name] = is_
                    say(f"notice: model.{part}.{name} stays {is_}, as in the checkpoint ({was} was given)")
            kept[part] = chosen

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
        given = [self.start, self.config_init[self.verb], self.trainer]
        given += [model, datamodule, self.config_yaml] if self.verb == "fit" else [datamodule]
        VERBS[self.verb].run(*given)


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


def _settings(described: Any) -> dict[str, Any]:
    return dict(described.get("init_args") or {}) if isinstance(described, dict) else {}
