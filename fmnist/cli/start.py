"""What a command begins with: which checkpoint is meant, its content, and the code that the user has named."""

import argparse
import inspect
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fmnist.cli.plain import TAKE_SEVERAL
from fmnist.cli.screen import say
from fmnist.data.saved import read_data_settings
from fmnist.errors import UserError, check
from fmnist.files import expand
from fmnist.model.network import NetworkFactory
from fmnist.names import CodeNotNamedError, find_code_here, import_code
from fmnist.runs.checkpoint import (
    Checkpoint,
    Member,
    check_members,
    check_weights,
    read_checkpoint,
)
from fmnist.runs.folder import find_checkpoints, run_folder
from fmnist.runs.settings import list_options, read_settings

NEED_DATA = ("validate", "test", "predict", "audit")  # commands that take over the data of the checkpoint
RESOLVED = "FMNIST_RESOLVED_CHECKPOINT"  # tells the processes that Lightning starts what the first one chose
# The options whose values are import paths, for which the current folder is searched
NAME_CODE = {
    *("transform", "data.source", "data.source.transform", "data.source.target_transform"),
    *("model.network", "model.optimizer"),
    *(f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator")),
}
NO_NAMES = ("class_path", "init_args", "help")  # parts of an option that belong to the option before them


@dataclass(frozen=True)
class Start:
    """What is known before the options of a command are read.

    Args:
        command: The command.
        argv: Its arguments; of an ensemble without its checkpoints.
        root: Folder that holds ``lightning_logs``.
        path: The checkpoint's file; empty if none is needed. Only a run to be continued may lack it.
        checkpoint: Its content; empty if there is none.
        data: The data settings of the checkpoint, as defaults of the command line.
        planned: The trainer settings of the run to be continued; nothing for a checkpoint outside of a run.
        named: Text that was typed or configured, by option: where a checkpoint needs code, its name must be there.
        network: What the user has named to make the network of the checkpoint; None for the MLP.
        others: Of an ensemble the other members: checkpoints and their content.
    """

    command: str
    argv: list[str]
    root: Path
    path: Path = Path()
    checkpoint: Checkpoint = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    planned: dict[str, Any] | None = None
    named: Mapping[str, str] = field(default_factory=dict)
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
        name = self.named.get("transform") or self.named.get("data.source.transform")
        made = import_code(name) if name else None
        return made() if inspect.isclass(made) else made

    def has_typed(self, *options: str) -> bool:
        """Returns whether one of these options was typed, or a setting of its value: ``--model.optimizer.lr``."""
        names = [word.partition("=")[0].removesuffix("+") for word in self.argv]
        return any(f"{name}.".startswith(f"{option}.") for name in names for option in options)

    def announce(self, device: str) -> None:
        """Prints what is used, and where it is computed."""
        wanted = any(word in ("-", "--output=-") for word in self.argv)  # standard output is for predictions alone
        what = f"an ensemble of {len(self.members)}" if self.others else f"{self.path} (epoch {self.epochs})"
        say(f"{self.command}: {what} on {device}", sys.stderr if wanted else sys.stdout)


def find_start(command: str, argv: Sequence[str], path: Path | None = None) -> Start:
    """Finds and reads the checkpoint that a command is about.

    Args:
        command: The command.
        argv: Its arguments.
        path: The checkpoint's file, where the arguments do not say which is meant.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or it was trained with code that has not been named.
    """
    argv = [*argv]
    typed = scan(argv)
    root, fits = expand(typed.default_root_dir or "."), command == "fit"
    asks_for_help = {"-h", "--help"} & {*argv} or any(word.startswith("--print_config") for word in argv)
    if not (path or typed.ckpt_path) and (fits or asks_for_help):
        return Start(command, argv, root, named=typed.named)
    paths = [path] if path else _resolve(typed.ckpt_path, root, fits)
    one = f"{command} takes one --ckpt_path, here are {len(paths)}: {' and '.join(TAKE_SEVERAL)} take several"
    check(len(paths) == 1 or command in TAKE_SEVERAL, one)
    run = run_folder(paths[0])
    planned = _read_config(run / "config.yaml").get("trainer") or {} if fits and run else None
    if fits and run:  # before it is read, so that the network that it names is known
        typed = scan(["--config", str(run / "config.yaml"), *argv])
        argv = ["--config", str(run / "config.yaml"), *argv]
    factory = import_code(typed.named["model.network"]) if "model.network" in typed.named else None
    try:
        read = [read_checkpoint(path, factory) if path.is_file() else {} for path in paths]
        inherits = command in NEED_DATA and not typed.images
        data = read_data_settings(read[0].get("FashionMNISTDataModule"), paths[0], typed.named) if inherits else {}
    except CodeNotNamedError as error:
        raise UserError(_ask_to_name(error, command, argv)) from error
    members = [*zip(paths, read, strict=True)]
    if fits and read[0]:  # before the network is built
        check_weights(*members[0], factory)
    if len(members) > 1:
        check_members(members, same_split=command == "test")
        argv = _checkpoints().parse_known_args(argv)[1]
    return Start(command, argv, root, *members[0], data, planned, typed.named, factory, tuple(members[1:]))


def _checkpoints() -> argparse.ArgumentParser:
    """Makes a parser of the checkpoints that are typed, and of nothing else."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scanner.add_argument("--ckpt_path", nargs="+", default=[])
    return scanner


def scan(argv: Sequence[str]) -> argparse.Namespace:
    """Finds the few settings that must be known before the arguments can be parsed, and the code that they name.

    Code in the current folder can be imported from here on, if some is named.
    """
    scanner = _checkpoints()
    scanner.add_argument("--images", nargs="*")
    scanner.add_argument("--trainer.default_root_dir", "--default_root_dir", dest="default_root_dir")
    scanner.add_argument("-c", "--config", action="append", default=[])
    try:
        typed = scanner.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    options: list[tuple[str, Any]] = []
    for config in typed.config:
        settings = _read_config(Path(config))
        check(not settings.get("ckpt_path"), f"{config}: ckpt_path belongs on the command line, as --ckpt_path")
        options += list_options(settings)
        root = dict(options).get("trainer.default_root_dir")
        if isinstance(root, str):  # the real parser complains of anything else
            typed.default_root_dir = typed.default_root_dir or root
    options += _typed_options(argv)
    typed.named = {option: name for option, name in options if isinstance(name, str) and name not in ("", "null")}
    find_code_here(name for option, name in options if isinstance(name, str) and _names_code(option))
    return typed


def _read_config(path: Path) -> dict[str, Any]:
    """Reads a configuration; nothing of one that cannot be opened, of which the real parser complains."""
    try:
        return read_settings(path)
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not a configuration: {str(error)[:200]}") from error


def _typed_options(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields the options that were typed, with their values; of a value like ``{...}`` what is in it."""
    for word, following in pairwise([*argv, ""]):
        option, equals, value = word.removeprefix("--").partition("=")
        name = ".".join(part for part in option.removesuffix("+").split(".") if part not in NO_NAMES)
        value = value if equals else following
        if not word.startswith("--"):
            continue
        if value.startswith(("{", "[")):
            try:
                yield from list_options(yaml.safe_load(value), name)
            except yaml.YAMLError:
                continue  # the real parser complains
        else:
            yield name, value


def _names_code(option: str) -> bool:
    """Returns whether the value of an option is the import path of a class or a function."""
    return option in NAME_CODE or option.startswith("trainer.callbacks.on_")


def _ask_to_name(error: CodeNotNamedError, command: str, argv: list[str]) -> str:
    """Returns the line that says how to go on, with the command to copy."""
    typed = [word for option, name in error.code.items() for word in (f"--{option}", name)]
    line = shlex.join(["python", "-m", "fmnist", command, *argv, *typed])
    return f"{error.path} was trained with {error.names}; if you trust that code, name it yourself: {line}"


def _resolve(specs: list[str], root: Path, to_continue: bool) -> list[Path]:
    """Finds the checkpoints once for all processes of this command."""
    if "LOCAL_RANK" in os.environ and RESOLVED in os.environ:
        return [*map(Path, json.loads(os.environ[RESOLVED]))]
    paths = find_checkpoints(specs, root, to_continue)
    os.environ[RESOLVED] = json.dumps([*map(str, paths)])
    return paths
