"""The one exception that is addressed to the user."""

from collections.abc import Iterator
from contextlib import contextmanager

PLACE_CODE = 3  # exit code of a PlaceError in a run that a sweep has started; everywhere else it is 2


class UserError(Exception):
    """A mistake that the user can fix.

    Its message is one line that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with 2.
    """


def check(right: bool, message: str) -> None:
    """Raises a ``UserError`` with ``message`` unless something is ``right``."""
    if not right:
        raise UserError(message)


class DamagedError(UserError, ValueError):
    """A file is not what it should be."""


class PlaceError(UserError):
    """The data, a folder or the disk is at fault, not the settings: a sweep stops, and its trial stays open."""


@contextmanager
def data_errors() -> Iterator[None]:
    """Turns a ``UserError`` raised inside into a ``PlaceError``; a context manager and a decorator."""
    try:
        yield
    except UserError as error:
        raise PlaceError(str(error)) from error
