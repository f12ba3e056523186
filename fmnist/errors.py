"""The one exception that is addressed to the user."""


class UserError(Exception):
    """A mistake the user can mend.

    Its message is one line that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with 2.
    """


def check(right: bool, message: str) -> None:
    """Raises a ``UserError`` with ``message`` unless something is ``right``."""
    if not right:
        raise UserError(message)
