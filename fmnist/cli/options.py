"""The options of the commands: parsers, what ``--help`` shows, and the option that was probably meant."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from fmnist.errors import UserError, check

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

COMMON = """

What most people set (all options are below):
  --config mlp.yaml              a recipe; later options override it
  --name NAME                    name of the run
  --trainer.max_epochs 20        passes over the training images
  --model.optimizer.lr 0.05      learning rate
  --model.hidden_dims [512,512]  width of each hidden layer
  --data.batch_size 128          images per step
  --ckpt_path last               continue the newest run"""
TAKE_SEVERAL = ("test", "predict")  # commands that take the checkpoints of an ensemble
CHECKPOINT = "Checkpoint or run, by its path or name; or 'best' or 'last' of the newest run (default: best)"


def help_texts(command: str, description: str, example: str, operands: str = "", hint: str = "") -> dict[str, Any]:
    """Returns what ``--help`` shows around the options, as arguments of a parser."""
    return {
        "usage": f"fmnist {command} [options]{operands}",
        "description": f"{description[0].upper()}{description[1:]}.{COMMON if command == 'fit' else ''}",
        "epilog": f"example: {example}\n{hint}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


class PlainParser(argparse.ArgumentParser):
    """Parser of a command that needs no Lightning; a mistake is a ``UserError``.

    Args:
        command: The command.
        description: One line that says what it does.
        example: A command, shown at the end of its help.
        operands: What it takes besides options.
    """

    def __init__(self, command: str, description: str, example: str, operands: str = "") -> None:
        self.names: list[str] = []
        super().__init__(**help_texts(command, description, example, operands), allow_abbrev=False)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an argument."""
        self.names += names
        return super().add_argument(*names, **settings)

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """Parses the arguments of the command.

        Raises:
            UserError: One of them is unknown, or is missing a value.
        """
        args, rest = self.parse_known_args(argv)
        for argument in rest:
            refuse_stray(argument)
            raise UserError(suggest(argument.partition("=")[0], self.names))
        return args

    def error(self, message: str) -> NoReturn:
        """Raises the mistake as a ``UserError``."""
        raise UserError(message)


def add_root(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says where the runs are."""
    names, text = ("--trainer.default_root_dir", "--default_root_dir"), "Folder that holds lightning_logs."
    parser.add_argument(*names, dest="root", default=".", metavar="DIR", help=text)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which trained model is meant."""
    help_text = f"{CHECKPOINT}; before any training, a small network of the package."
    parser.add_argument("--ckpt_path", nargs="+", metavar="PATH", help=help_text)
    add_root(parser)
    parser.add_argument(
        "--model.network",
        dest="network",
        metavar="NAME",
        help="Custom network class; naming it allows its code to run.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file that names the network.")


def add_transform(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names what was applied to each picture in training."""
    parser.add_argument("--transform", metavar="NAME", help="Name the function that changed each picture in training.")


def refuse_stray(argument: str) -> None:
    """Raises a ``UserError`` for an argument that is neither an option nor its value."""
    check(argument.startswith("-"), f"unexpected argument '{argument}': options begin with --")


def suggest(option: str, known: Iterable[str]) -> str:
    """Returns the message for an unknown option, with the one that was probably meant.

    Args:
        option: As it was typed, or the name of a setting in a file.
        known: Options that there are, with or without dashes.
    """
    near = nearest(option.lstrip("-"), (name.lstrip("-") for name in known))
    dashes = "--" if option.startswith("-") else ""
    return f"there is no option '{option}'" + (f": did you mean '{dashes}{near}'?" if near else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the option that was probably meant; empty if that is unknown."""
    name, known = name.replace("-", "_"), {*known}
    last = name.rpartition(".")[2]
    other = SYNONYMS.get(last, "")
    if {other, other.rpartition(".")[0]} & known:
        return other
    same = sorted(option for option in known if option.rpartition(".")[2] == last)
    return (difflib.get_close_matches(name, same or known, n=1) or same or [""])[0]
