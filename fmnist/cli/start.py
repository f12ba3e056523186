"""What a verb begins with: the checkpoint that the words mean, and the settings of its run."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fmnist.cli.plain import TAKE_SEVERAL
from fmnist.cli.screen import name_device, say
from fmnist.errors import UserError, check
from fmnist.files import expand
from fmnist.names import find_code_here
from fmnist.runs.checkpoint import Checkpoint, Member, check_members, load_members, read_checkpoint
from fmnist.runs.folder import find_checkpoints
from fmnist.runs.settings import SHARED_KEYS, UntrustedError, named_code, read_run_settings, read_settings

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from fmnist.training.classifier import ImageClassifier

NEED_DATA = ("validate", "test", "predict", "audit")  # verbs that take over the data of the run
RESOLVED = "FMNIST_RESOLVED_CHECKPOINT"  # tells the processes that Lightning starts what the first one chose


@dataclass(frozen=True)
class Start:
    """What is known before the options of a verb are read.

    Args:
        verb: The verb.
        words: What was typed after it; of an ensemble without its checkpoints.
        root: Folder that holds ``lightning_logs``.
        path: The checkpoint's file; empty if none is needed. Only a run to be continued may lack it.
        checkpoint: Its content; empty if there is none.
        settings: What the verb takes over from the run of the checkpoint.
        named: The code that the user has named.
        others: Of an ensemble the other members: checkpoints and their content.
    """

    verb: str
    words: list[str]
    root: Path
    path: Path = Path()
    checkpoint: Checkpoint = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    others: tuple[Member, ...] = ()

    @property
    def members(self) -> list[Member]:
        """The checkpoints, one or, of an ensemble, several."""
        return [(self.path, self.checkpoint), *self.others]

    @property
    def epochs(self) -> int:
        """Epochs that the checkpoint has seen."""
        return int(self.checkpoint.get("epoch", -1)) + 1

    def has_typed(self, *options: str) -> bool:
        """Tells whether one of these options was typed, or a setting of its value: ``--model.optimizer.lr``."""
        names = [word.partition("=")[0].removesuffix("+") for word in self.words]
        return any(f"{name}.".startswith(f"{option}.") for name in names for option in options)

    def announce(self, device: str) -> None:
        """Says what is used, and where it is computed."""
        wanted = any(word in ("-", "--output=-") for word in self.words)  # standard output is for predictions alone
        what = f"an ensemble of {len(self.members)}" if self.others else f"{self.path} (epoch {self.epochs})"
        say(f"{self.verb}: {what} on {device}", sys.stderr if wanted else sys.stdout)

    def load_weights(self, model: "ImageClassifier", trainer: "Trainer") -> None:
        """Gives a model the weights of the checkpoint, in the precision of the trainer; or the ensemble as network."""
        if self.others:
            model.network = load_members(self.members).network
        trainer.precision_plugin.convert_module(model)  # before the weights come, or 64 bits are cut to 32
        if not self.others:
            model.load_state_dict(self.checkpoint["state_dict"])
            model.typicality.state = self.checkpoint.get("typicality", {})
        self.announce(name_device(trainer))


def find_start(verb: str, words: list[str], path: Path | None = None) -> Start:
    """Finds the checkpoint, reads it and the settings of its run.

    Args:
        verb: The verb.
        words: What was typed after it.
        path: The checkpoint's file, where the words do not say which is meant.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or it names code that has not been named.
    """
    typed = scan(words)
    root, fits = expand(typed.default_root_dir or "."), verb == "fit"
    asks_for_help = {"-h", "--help"} & {*words} or any(word.startswith("--print_config") for word in words)
    if not (path or typed.ckpt_path) and (fits or asks_for_help):
        return Start(verb, words, root)
    paths = [path] if path else _resolve(typed.ckpt_path, root, fits)
    one = f"{verb} takes one --ckpt_path, here are {len(paths)}: {' and '.join(TAKE_SEVERAL)} take several"
    check(len(paths) == 1 or verb in TAKE_SEVERAL, one)
    parts = SHARED_KEYS if fits else ("data",) if verb in NEED_DATA and not typed.images else ()
    try:
        settings = read_run_settings(paths[0], parts, typed.named)
        read = [read_checkpoint(path, typed.named, to_continue=fits) if path.is_file() else {} for path in paths]
    except UntrustedError as error:
        raise UserError(_ask_to_name(error, verb, words)) from error
    members = [*zip(paths, read, strict=True)]
    if len(members) > 1:
        check_members(members, same_split=verb == "test")
        words = _checkpoints().parse_known_args(words)[1]
    return Start(verb, words, root, *members[0], settings, frozenset(typed.named), tuple(members[1:]))


def _checkpoints() -> argparse.ArgumentParser:
    """Makes a parser of the checkpoints that are typed, and of nothing else."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scanner.add_argument("--ckpt_path", nargs="+", default=[])
    return scanner


def scan(words: list[str]) -> argparse.Namespace:
    """Finds the few settings that must be known before the words can be parsed, and the code that they name."""
    scanner = _checkpoints()
    scanner.add_argument("--images", nargs="*")
    scanner.add_argument("--trainer.default_root_dir", "--default_root_dir", dest="default_root_dir")
    scanner.add_argument("-c", "--config", action="append", default=[])
    try:
        typed = scanner.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    typed.named = {*_named_in_words(words)}
    for config in typed.config:
        try:
            settings = read_settings(Path(config))
        except OSError:
            continue  # the real parser complains
        except ValueError as error:
            raise UserError(f"{config} is not a configuration: {str(error)[:200]}") from error
        typed.named |= {name for _, name in named_code(settings)}
        check(not settings.get("ckpt_path"), f"{config}: ckpt_path belongs on the command line, as --ckpt_path")
        trainer = settings.get("trainer")
        root = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
        if isinstance(root, str):  # the real parser complains of anything else
            typed.default_root_dir = typed.default_root_dir or root
    find_code_here(typed.named)
    return typed


def _named_in_words(words: list[str]) -> Iterator[str]:
    """Yields what the user has typed, which is trusted: whole words, values, and names in values like ``{...}``."""
    for word in words:
        value = word.partition("=")[2] if word.startswith("--") and "=" in word else word
        yield value
        if value.startswith(("{", "[")):
            try:
                yield from (name for _, name in named_code(yaml.safe_load(value)))
            except yaml.YAMLError:
                continue  # the real parser complains


def _ask_to_name(error: UntrustedError, verb: str, words: list[str]) -> str:
    """Returns the line that says how to go on, with the command to copy."""
    whole = verb == "fit" or any(setting.startswith("trainer") for setting, _ in error.foreign)
    typed = [*words, *(word for setting, name in error.foreign for word in (f"--{setting}", name))]
    if whole and error.path.suffix == ".yaml":
        typed = ["--config", str(error.path), *words]  # what is typed after it wins
    command = shlex.join(["python", "-m", "fmnist", verb, *typed])
    return f"{error.path} names {error.names}; if you trust that code, name it yourself: {command}"


def _resolve(specs: list[str], root: Path, to_continue: bool) -> list[Path]:
    """Finds the checkpoints once for all processes of this command."""
    if "LOCAL_RANK" in os.environ and RESOLVED in os.environ:
        return [*map(Path, json.loads(os.environ[RESOLVED]))]
    paths = find_checkpoints(specs, root, to_continue)
    os.environ[RESOLVED] = json.dumps([*map(str, paths)])
    return paths
