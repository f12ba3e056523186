"""Text that others have written, such as class names and file names, made harmless where it is shown."""

import contextlib
import re
from typing import Any
from unicodedata import category, east_asian_width

# Control characters (C0, C1), marks that change the direction of text, line separators, and lone surrogates.
# Left alone: spaces of any width, and the joiners that Persian, Hindi and emoji are written with.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - how a formula begins, in any width


def plain(text: str) -> str:
    r"""Returns one line in which nothing commands a terminal: ESC becomes ``\u001b``, which JSON reads as ESC."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def table_cell(value: Any) -> Any:
    """Returns what to write into a CSV file, so that a spreadsheet takes text as text: ``=1+1`` becomes ``'=1+1``."""
    if not isinstance(value, str):
        return value
    if value.startswith(FORMULA):
        with contextlib.suppress(ValueError):
            float(value)
            return value
        value = f"'{value}"
    return plain(value)


def display_width(text: str) -> int:
    """Returns the columns that a text takes in a terminal: two for a Chinese character, none for a combining mark."""
    marks = ("Mn", "Me", "Cf")
    return sum(0 if category(char) in marks else 1 + (east_asian_width(char) in "WF") for char in text)


def pad(text: str, width: int, right: bool = False) -> str:
    """Returns a text, filled up with spaces to a number of columns in a terminal; ``right`` puts them before it."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces
