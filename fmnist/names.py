"""Code by its name: how a class or a function is written down, and found again."""

from importlib import import_module
from typing import Any

from fmnist.errors import UserError


def describe_code(code: Any) -> str | None:
    """Returns the path by which a class or a function can be imported; None if it has no name, as a lambda."""
    path = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '<none>')}"
    return None if "<" in path else path


def import_code(path: str) -> Any:
    """Imports a class or a function, and so runs the code of its module.

    Raises:
        UserError: There is no such class or function.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be imported: {error}") from error
