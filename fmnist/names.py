"""Code by its name: how a class or a function is written down, and found again."""

import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmnist.errors import UserError, check


class UntrustedCodeError(UserError):
    """A checkpoint was trained with code that the user has not named.

    Args:
        path: The checkpoint's file.
        code: The option for each class or function, and its import path.
    """

    def __init__(self, path: Path, code: Mapping[str, str]) -> None:
        self.path = path
        self.code = code
        self.names = ", ".join(code.values())
        options = " ".join(f"--{option} {name}" for option, name in code.items())
        super().__init__(f"{path} was trained with {self.names}: if you trust that code, name it, with {options}")


def describe_code(code: Any) -> str | None:
    """Returns the path by which a class or a function can be imported; None if it has no name, as a lambda."""
    path = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '<none>')}"
    return None if "<" in path else path


def search_current_folder(names: Iterable[str]) -> None:
    """Lets classes and functions in the current folder be imported, if one outside of this package is named.

    The folder comes last, so that nothing in it replaces an installed module. It stays, since worker processes and
    late imports of the named code need it.
    """
    here = str(Path.cwd())
    dotted = (name for name in names if all(part.isidentifier() for part in name.split(".")) and "." in name)
    if here not in sys.path and any(not name.startswith("fmnist.") for name in dotted):
        sys.path.append(here)


def import_code(path: str) -> Any:
    """Imports a class or a function that the user has named, and so runs the code of its module.

    Args:
        path: Its module and its name, such as ``mine.Net``; a class inside a class is ``mine.Outer.Net``.

    Raises:
        UserError: There is no such class or function.
    """
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be imported: {error}") from error


def check_installed(what: str, packages: Iterable[str], extra: str) -> None:
    """Raises a ``UserError`` that says what to install if a package of an extra is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    in_clone = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    how = f'-e ".[{extra}]"' if in_clone else " ".join(missing)
    check(not missing, f"{what} needs {', '.join(missing)}: pip install {how}")
