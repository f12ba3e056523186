"""Errors that the user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager

SETUP_CODE = 3  # exit code of a SetupError in a run that a sweep has started; everywhere else it is 2


class UserError(Exception):
    """A mistake that the user can fix.

    Its message is one line that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with 2.
    """


def check(condition: bool, message: str) -> None:
    """Raises a ``UserError`` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)


class DamagedError(UserError, ValueError):
    """A file is not what it should be."""


class SetupError(UserError):
    """The data, a folder or the disk is at fault, not the settings: a sweep stops, and its trial stays open."""


@contextmanager
def data_errors() -> Iterator[None]:
    """Turns a ``UserError`` raised inside into a ``SetupError``; a context manager and a decorator."""
    try:
        yield
    except UserError as error:
        raise SetupError(str(error)) from error
