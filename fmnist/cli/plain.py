"""The options of verbs that need no Lightning, read in milliseconds."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from fmnist.errors import UserError
from fmnist.files import expand

CONFIGS = Path(__file__).parent.parent / "configs"  # a link to those of the project, of which a wheel has a copy

# Other names that settings have elsewhere
SYNONYMS = {
    **dict.fromkeys(("lr", "learning_rate"), "model.optimizer.lr"),
    **dict.fromkeys(("wd", "weight_decay"), "model.optimizer.weight_decay"),
    **dict.fromkeys(("optim", "opt"), "model.optimizer"),
    **dict.fromkeys(("layers", "hidden", "hidden_size", "hidden_sizes", "hidden_layers"), "model.hidden_dims"),
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "n_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("gpus", "num_devices"), "trainer.devices"),
    **dict.fromkeys(("device", "gpu", "cuda", "cpu"), "trainer.accelerator"),
    "momentum": "model.optimizer.momentum",
    "bs": "data.batch_size",
    "workers": "data.num_workers",
    "data_dir": "data.source.root",
    "seed": "seed_everything",
    **dict.fromkeys(("ckpt", "checkpoint", "resume", "weights"), "ckpt_path"),
}

TAKE_SEVERAL = ("test", "predict")  # verbs that take the checkpoints of an ensemble
CHECKPOINT = "A checkpoint or a run, by its path; or 'best' or 'last' of the newest run"


def find_configs(verb: str, words: Sequence[str]) -> list[str]:
    """Puts the path of a configuration of the package where one is named, without a path, that is not here.

    Args:
        verb: The verb.
        words: What was typed after it: ``--config mlp.yaml``, or for ``sweep`` the file of a sweep.
    """
    found = []
    for before, word in zip([verb, *words], words, strict=False):
        option, equals, name = word.partition("=") if word.startswith("--config=") else ("", "", word)
        folder = CONFIGS / "sweeps" if before == "sweep" else CONFIGS
        given = bool(equals) or before in ("-c", "--config", "sweep")
        if given and name in {path.name for path in folder.glob("*.yaml")} and not expand(name).exists():
            shipped = folder / name
            if os.environ.get("LOCAL_RANK", "0") == "0":  # the other processes of a training say nothing
                print(f"{name} is not here: {shipped} is taken", file=sys.stderr)
            word = f"{option}{equals}{shipped}"
        found.append(word)
    return found


class PlainParser(argparse.ArgumentParser):
    """Reports a mistake as one line, with the nearest option for an unknown one.

    Args:
        verb: The verb.
        description: What it does, in a few words.
        example: A command, shown at the end of its help.
        operands: What it takes besides options.
    """

    def __init__(self, verb: str, description: str, example: str, operands: str = "") -> None:
        usage, text = f"fmnist {verb} [options]{operands}", f"{description[0].upper()}{description[1:]}."
        super().__init__(usage=usage, description=text, epilog=f"example: {example}", allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises the mistake as a ``UserError``."""
        unknown = re.search(r"unrecognized arguments: --([^\s=]+)", message)
        if unknown:
            message = suggest(unknown[1], [name.lstrip("-") for name in self._option_string_actions])
        raise UserError(message)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which trained model is meant."""
    parser.add_argument("--ckpt_path", nargs="+", metavar="PATH", help=f"{CHECKPOINT}.")
    parser.add_argument(
        "--trainer.default_root_dir",
        "--default_root_dir",
        dest="root",
        metavar="DIR",
        help="Folder that holds lightning_logs.",
    )
    parser.add_argument(
        "--model.network",
        dest="network",
        metavar="NAME",
        help="Name your own network that was trained.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="A configuration that names it.")


def add_transform(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names what was applied to each picture in training."""
    parser.add_argument("--transform", metavar="NAME", help="Name the function that changed each picture in training.")


def suggest(name: str, options: Iterable[str], typed: bool = True) -> str:
    """Says that there is no option of this name, and which was probably meant.

    Args:
        name: The name, without dashes before it.
        options: Names that there are.
        typed: Whether it was typed; else it stands in a file.
    """
    dashes, near = "--" if typed else "", nearest(name, options)
    return f"there is no option '{dashes}{name}'" + (f": did you mean '{dashes}{near}'?" if near else "")


def nearest(name: str, options: Iterable[str]) -> str:
    """Returns the option that was probably meant; empty if that is unknown."""
    name, known = name.replace("-", "_"), {*options}
    last = name.rpartition(".")[2]
    other = SYNONYMS.get(last, "")
    if {other, other.rpartition(".")[0]} & known:
        return other
    same = sorted(option for option in known if option.rpartition(".")[2] == last)
    return (difflib.get_close_matches(name, same or known, n=1) or same or [""])[0]
