"""Code by its name: how a class or a function is written down, and found again."""

import importlib.util
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from fmnist.errors import UserError, check


def describe_code(code: Any) -> str | None:
    """Returns the path by which a class or a function can be imported; None if it has no name, as a lambda."""
    path = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '<none>')}"
    return None if "<" in path else path


def find_code_here(names: Iterable[str]) -> None:
    """Lets code in the current folder be found, if a name outside of this package has been given.

    The folder comes last, so that nothing in it takes the place of an installed module.

    Args:
        names: What the user has typed; what is no name of code is left alone.
    """
    here = str(Path.cwd())
    if here not in sys.path and any(re.fullmatch(r"(?!fmnist\.)[^\W\d]\w*(\.[^\W\d]\w*)+", name) for name in names):
        sys.path.append(here)


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


def check_installed(what: str, packages: Iterable[str], extra: str) -> None:
    """Raises a ``UserError`` that says what to install if a package of an extra is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    check(not missing, f"{what} needs {', '.join(missing)}: pip install 'fmnist[{extra}]'")
