"""Finds where the package relies on what its libraries do not promise.

    python -m tests.private_names

Prints file, line and name of every use: private attributes, methods and imports of libraries, also as text for
``getattr`` or ``patch``, and assignments to attributes of libraries and of arguments that are of their types.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "fmnist"
PRIVATE = re.compile(r"_(?!_)\w+|__\w*[a-z0-9](?<!__)")  # but not __dunder__
PUBLIC = {"_asdict", "_replace", "_fields", "_make", "_exit"}  # documented: of named tuples, and of os
BY_TEXT = ("getattr", "setattr", "hasattr", "delattr", "patch", "patch.object", "attrgetter")


def find_private_names():
    """Yields pairs: ``file:line``, and the name; ``object.name =`` where it is assigned to."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    own = {name for tree in trees.values() for node in ast.walk(tree) for name in defined(node)}
    for path, tree in trees.items():
        aliases = [alias for node in ast.walk(tree) for alias in imported(node)]
        libraries = {alias.asname or alias.name.partition(".")[0] for alias in aliases}
        theirs = libraries | {name for node in ast.walk(tree) for name in arguments(node, libraries)}
        found = [(node.lineno, name) for node in ast.walk(tree) for name in used(node, own, theirs)]
        found += [(node.lineno, name) for node in tree.body for name in overridden(path, node)]
        for line, name in sorted(found):
            yield f"{path.relative_to(PACKAGE.parent).as_posix()}:{line}", name


def defined(node):
    """Yields the names that a node gives to something of the package."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    if isinstance(node, ast.Module | ast.ClassDef):
        targets = [part for field in node.body for part in getattr(field, "targets", [getattr(field, "target", None)])]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
        yield node.attr


def imported(node):
    """Yields what a node imports from libraries."""
    if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.module.startswith("fmnist")):
        yield from node.names


def arguments(node, libraries):
    """Yields the arguments of a function that are of a library's type, which is not made to be assigned to."""
    if isinstance(node, ast.FunctionDef):
        for arg in node.args.posonlyargs + node.args.args + node.args.kwonlyargs:
            kind = re.match(r"\w*", ast.unparse(arg.annotation or ast.Name("")))[0]
            if kind in libraries and kind not in ("Any", "Namespace", "argparse"):
                yield arg.arg


def used(node, own, libraries):
    """Yields what a node uses of libraries that is private, and which attributes of theirs it replaces."""
    for alias in imported(node):
        module = f"{getattr(node, 'module', '')}.{alias.name}"
        if any(PRIVATE.fullmatch(part) for part in module.split(".")):
            yield module.lstrip(".")
    if isinstance(node, ast.Attribute):
        root = re.match(r"\w*", ast.unparse(node))[0]
        if PRIVATE.fullmatch(node.attr) and node.attr not in PUBLIC and (node.attr not in own or root in libraries):
            yield node.attr
        if not isinstance(node.ctx, ast.Load) and root in libraries - sys.stdlib_module_names:
            yield f"{ast.unparse(node)} ="
    if isinstance(node, ast.Call) and ast.unparse(node.func) in BY_TEXT:
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        yield from (part for text in texts for part in text.split(".") if PRIVATE.fullmatch(part) and part not in own)
        if ast.unparse(node.func) == "setattr" and re.match(r"\w*", ast.unparse(node.args[0]))[0] in libraries:
            yield ast.unparse(node)


def overridden(path, node):
    """Yields the private methods of a class that it has instead of those of a library."""
    if isinstance(node, ast.ClassDef):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        above = getattr(importlib.import_module(module), node.name).__mro__[1:]
        theirs = {name for base in above if not base.__module__.startswith("fmnist") for name in vars(base)}
        own = [part.name for part in node.body if isinstance(part, ast.FunctionDef) and PRIVATE.fullmatch(part.name)]
        yield from (f"{node.name}.{name}" for name in own if name in theirs)


if __name__ == "__main__":
    for place, name in find_private_names():
        print(f"{place}: {name}")
