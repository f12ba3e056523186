"""What a command begins with: its arguments as given, the checkpoint that they mean, and the code that they name."""

import inspect
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from fmnist.cli.console import announce_bundled, say
from fmnist.cli.options import TAKE_SEVERAL
from fmnist.data.saved import read_data_settings
from fmnist.errors import UserError, check
from fmnist.files import expand, find_config, list_configs, read_text
from fmnist.model.network import NetworkFactory
from fmnist.names import UntrustedCodeError, import_code, search_current_folder
from fmnist.runs.checkpoint import (
    Checkpoint,
    Member,
    check_members,
    check_weights,
    data_state,
    read_checkpoint,
)
from fmnist.runs.folder import find_checkpoints, run_folder
from fmnist.runs.settings import SHARED_KEYS, list_options, parse_settings

NEED_DATA = ("validate", "test", "predict", "audit")  # commands that take over the data of the checkpoint
# Lightning starts the processes of other devices with this command's arguments: they must not look again for the
# newest run, which another command may have made by then. What they inherit is the environment.
RESOLVED = "FMNIST_RESOLVED_CHECKPOINT"
# The options whose values are import paths, for which the current folder is searched
NAME_CODE = {
    *("transform", "data.source", "data.source.transform", "data.source.target_transform"),
    *("model.network", "model.optimizer"),
    *(f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator")),
}
NO_NAMES = ("class_path", "init_args")  # parts of an option that belong to the option before them
HELP = ("-h", "--help", "--print_config")


class Option(NamedTuple):
    """A setting as it was given, before a parser knows its type.

    Args:
        name: Option without dashes, such as ``model.optimizer.lr``; that of a class is ``model.optimizer``.
        value: Text that was typed, or a value of a configuration.
        typed: Whether it was typed; else it is from a configuration.
    """

    name: str
    value: Any
    typed: bool


@dataclass(frozen=True)
class Given:
    """The arguments of a command, looked at once, before any parser.

    Args:
        argv: The arguments without ``--ckpt_path``, a class before its settings.
        ckpt_path: Values of ``--ckpt_path``.
        options: Everything else that was given, in this order.
    """

    argv: list[str]
    ckpt_path: list[str]
    options: list[Option]

    @property
    def text(self) -> dict[str, str]:
        """The last text given for each option, which may name code."""
        return {name: value for name, value, _ in self.options if isinstance(value, str) and value not in ("", "null")}

    @property
    def root(self) -> Path:
        """Folder that holds ``lightning_logs``."""
        text = self.text
        return expand(text.get("default_root_dir") or text.get("trainer.default_root_dir") or ".")

    def has_typed(self, *names: str) -> bool:
        """Returns whether one of these options was typed, or a setting of its value: ``--model.optimizer.lr``."""
        typed = (option.name for option in self.options if option.typed)
        return any(f"{name}.".startswith(f"{wanted.lstrip('-')}.") for name in typed for wanted in names)


@dataclass(frozen=True)
class Start:
    """What is known before the options of a command are parsed.

    Args:
        command: The command.
        given: Its arguments; those of the configuration of a run to be continued come first.
        path: The checkpoint's file; empty if none is needed. Only a run to be continued may lack it.
        checkpoint: Its content; empty if there is none.
        data: The data settings of the checkpoint, as defaults of the command line.
        planned: The trainer settings of the run to be continued; None for a checkpoint outside of a run.
        network: What the user has named to make the network of the checkpoint; None for the MLP.
        others: Of an ensemble the other members: checkpoints and their content.
    """

    command: str
    given: Given
    path: Path = Path()
    checkpoint: Checkpoint = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    planned: dict[str, Any] | None = None
    network: NetworkFactory | None = None
    others: tuple[Member, ...] = ()

    @property
    def members(self) -> list[Member]:
        """The checkpoints, one or, of an ensemble, several."""
        return [(self.path, self.checkpoint), *self.others]

    @property
    def epochs(self) -> int:
        """Epochs that the checkpoint has seen."""
        return int(self.checkpoint.get("epoch", -1)) + 1

    @property
    def transform(self) -> Any:
        """What the user has named to be applied to each picture; None for nothing."""
        text = self.given.text
        option = next((name for name in ("transform", "data.source.transform") if text.get(name)), None)
        if option is None:
            return None
        settings = ", ".join(name for name, *_ in self.given.options if name.startswith(f"{option}."))
        check(not settings, f"{settings}: a class with settings cannot be given here: name a function without any")
        made = import_code(text[option])
        return made() if inspect.isclass(made) else made

    @property
    def screen(self) -> TextIO:
        """Where notes go: standard output is for predictions only, if they are written there."""
        return sys.stderr if self.given.text.get("output") == "-" else sys.stdout

    def announce(self, device: str) -> None:
        """Prints what is used, and where it is computed."""
        what = f"an ensemble of {len(self.members)}" if self.others else f"{self.path} (epoch {self.epochs})"
        say(f"{self.command}: {what} on {device}", self.screen)


def find_start(command: str, argv: Sequence[str], path: Path | None = None) -> Start:
    """Finds and reads the checkpoint that a command is about.

    Args:
        command: The command.
        argv: Its arguments.
        path: The checkpoint's file, where the arguments do not say which is meant.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or it was trained with code that has not been named.
    """
    given, fits = look(argv), command == "fit"
    asks_for_help = any(argument.partition("=")[0] in HELP for argument in argv)
    if not (path or given.ckpt_path) and (fits or asks_for_help):
        return Start(command, given)
    inherits = command in NEED_DATA and not given.has_typed("images")
    paths = [path] if path else _resolve(given, fits, or_bundled=not (fits or inherits))
    one = f"{command} takes one --ckpt_path, but got {len(paths)}: {' and '.join(TAKE_SEVERAL)} take several"
    check(len(paths) == 1 or command in TAKE_SEVERAL, one)
    run, planned = run_folder(paths[0]), None
    if fits and run:  # the run's own settings, with the network that they name
        config = str(run / "config.yaml")
        given, planned = look(["--config", config, *argv]), read_config(config).get("trainer") or {}
    factory = import_code(given.text["model.network"]) if "model.network" in given.text else None
    try:
        read = [read_checkpoint(path, factory) if path.is_file() else {} for path in paths]
        data = read_data_settings(data_state(read[0]), paths[0], given.text) if inherits else {}
    except UntrustedCodeError as error:
        raise UserError(_ask_to_name(error, command, argv)) from error
    members = [*zip(paths, read, strict=True)]
    if fits and read[0]:  # before the network is built
        check_weights(*members[0], factory)
    if len(members) > 1:
        check_members(members, same_split=command == "test")
    return Start(command, given, *members[0], data, planned, factory, tuple(members[1:]))


def look(argv: Sequence[str]) -> Given:
    """Looks at the arguments of a command for what must be known before they can be parsed.

    Code in the current folder can be imported from here on, if some is named.

    Raises:
        UserError: A configuration cannot be read.
    """
    options, ckpt_path, groups = list[Option](), list[str](), list[tuple[str, list[str]]]()
    for name, arguments in _group(argv):
        _, equals, value = arguments[0].partition("=")
        values = [value] if equals else arguments[1:]
        if name == "ckpt_path":
            ckpt_path = values
            check(bool(values), "--ckpt_path: expected at least one argument")
            continue
        groups.append((name, arguments))
        if not name:
            options.append(Option("", arguments[0], True))
            continue
        if name in ("c", "config"):
            options += [Option(*option, False) for path in values[:1] for option in list_options(read_config(path))]
        options += _read_typed(name, values)
    search_current_folder(value for name, value, _ in options if isinstance(value, str) and _names_code(name))
    return Given([argument for group in _sort(groups) for argument in group], ckpt_path, options)


def read_config(name: str) -> dict[str, Any]:
    """Reads a configuration: a file, or one of the package's own by its name.

    Raises:
        UserError: It is not a configuration, or has a setting that belongs on the command line.
    """
    path = find_config(name)
    announce_bundled(name, str(path))
    try:
        settings = parse_settings(read_text(path) if isinstance(path, Path) else path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"--config {name}: no such file; bundled: {', '.join(list_configs())}") from error
    except OSError as error:
        raise UserError(f"--config {name}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{name} is not a configuration: {str(error)[:200]}") from error
    check(not settings.get("ckpt_path"), f"{name}: ckpt_path belongs on the command line, as --ckpt_path")
    return settings


def _group(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the options with their names and values; an argument that belongs to none has the name ``""``."""
    groups = list[tuple[str, list[str]]]()
    for argument in argv:
        if argument[:2] == "--" or argument in ("-c", "-h"):
            parts = argument.lstrip("-").partition("=")[0].split(".")
            groups.append((".".join(part for part in parts if part not in NO_NAMES), [argument]))
        elif groups:
            groups[-1][1].append(argument)
        else:
            groups.append(("", [argument]))
    return groups


def _read_typed(name: str, values: list[str]) -> list[Option]:
    """Returns an option that was typed; of a value like ``{...}`` also what is in it."""
    name, value = name.removesuffix("+"), values[0] if values else ""
    if name.partition(".")[0] not in SHARED_KEYS:
        return [Option(name, value, True)]
    check(not value.startswith("'"), f"--{name} {value}: here single quotes are part of the value; use double quotes")
    options = [Option(name, value, True)]
    if value.startswith(("{", "[")):
        try:
            inner = parse_settings(f"value: {value}")["value"]
        except ValueError as error:
            raise UserError(f"--{name}: {str(error)[:200]}") from error
        options += [Option(*option, True) for option in list_options(inner, name)]
    return options


def _sort(groups: list[tuple[str, list[str]]]) -> list[list[str]]:
    """Puts a class before its settings and leaves everything else where it is.

    jsonargparse drops the settings that come before another class: ``--model.optimizer.lr 0.5 --model.optimizer Adam``.
    """
    places = {name: place for place, (name, _) in enumerate(groups)}

    def place(pair: tuple[int, tuple[str, list[str]]]) -> tuple[int, int]:
        parts = pair[1][0].split(".")
        outer = (places.get(".".join(parts[:count]), -1) for count in range(1, len(parts)))
        return max(pair[0], *outer, -1), len(parts)

    return [arguments for _, (_, arguments) in sorted(enumerate(groups), key=place)]


def _names_code(option: str) -> bool:
    """Returns whether the value of an option is the import path of a class or a function."""
    return option.removesuffix(".help") in NAME_CODE or option.startswith("trainer.callbacks.on_")


def _ask_to_name(error: UntrustedCodeError, command: str, argv: Sequence[str]) -> str:
    """Returns the line that says how to go on, with the command to copy."""
    named = [argument for option, name in error.code.items() for argument in (f"--{option}", name)]
    line = shlex.join(["fmnist", command, *argv, *named])
    return f"{error.path} was trained with {error.names}; if you trust that code, name it yourself: {line}"


def _resolve(given: Given, to_continue: bool, or_bundled: bool) -> list[Path]:
    """Finds the checkpoints once for all processes of this command."""
    if "LOCAL_RANK" in os.environ and RESOLVED in os.environ:
        return [*map(Path, json.loads(os.environ[RESOLVED]))]
    paths = find_checkpoints(given.ckpt_path, given.root, to_continue, or_bundled)
    os.environ[RESOLVED] = json.dumps([*map(str, paths)])
    return paths
