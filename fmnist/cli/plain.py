"""The options of verbs that need no Lightning, read in milliseconds."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

from fmnist.errors import UserError


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
    parser.add_argument(
        "--ckpt_path", help="A checkpoint or a run, by its path; or 'best' or 'last' of the newest run."
    )
    parser.add_argument(
        "--trainer.default_root_dir",
        "--default_root_dir",
        dest="root",
        metavar="DIR",
        help="Folder that holds lightning_logs.",
    )
    parser.add_argument(
        "--model.network", dest="network", metavar="NAME", help="Name a network of your own, which is trusted then."
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="A configuration that names it.")


def suggest(name: str, options: Iterable[str]) -> str:
    """Says that there is no option of this name, and which was probably meant."""
    near = difflib.get_close_matches(name, options, n=1)
    return f"there is no option '{name}'" + (f": did you mean '{near[0]}'?" if near else "")
