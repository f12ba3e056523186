"""The rules of the house: who may import whom."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.private_names import find_private_names

# From the ground up: a file imports what stands in its own room or before it.
ROOMS = ["", "model", "runs", "data", "evaluation", "inference", "training", "sweep", "cli"]
FILES = sorted((ROOT / "fmnist").rglob("*.py"))
NO_TORCH = ("runs/folder.py", "runs/settings.py", "runs/tables.py", "cli/compare.py", "cli/options.py")


def name(path):
    return path.relative_to(ROOT / "fmnist").as_posix()


def room(path):
    return name(path).rpartition("/")[0].partition("/")[0]


def imports(path):
    """Yields every module that a file imports, also inside functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    """Yields the files of the package that a file imports."""
    for module in imports(path):
        found = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        if module.startswith("fmnist.") and found.is_file():
            yield found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down(path):
    if name(path) == "__main__.py":
        return
    for found in own(path):
        assert ROOMS.index(room(found)) <= ROOMS.index(room(path)), f"{name(path)} imports {name(found)}"
        assert {room(path), room(found)} != {"data", "model"}


def test_no_room_imports_anything_by_itself():
    for path in FILES:
        if path.name == "__init__.py" and path.parent.name != "fmnist":
            assert not list(imports(path)), name(path)


def test_lightning_stays_upstairs():
    for path in FILES:
        free = room(path) in ("model", "inference", "runs") or (room(path) == "data" and path.name != "datamodule.py")
        if free or name(path) in ("cli/export.py", "cli/options.py", *NO_TORCH):
            assert not [module for module in imports(path) if module.startswith(("lightning", "torchmetrics"))], name(
                path
            )
    for path in FILES:
        if room(path) == "inference":
            assert not [f for f in own(path) if "sources" in f.parts or f.name == "datamodule.py"], name(path)


def test_no_verb_imports_the_command():
    for path in FILES:
        if room(path) == "cli" and path.name not in ("command.py", "sweep.py"):  # a sweep asks it to read words
            assert not [found for found in own(path) if found.name == "command.py"], name(path)


def reach(path, seen):
    if path not in seen:
        seen.add(path)
        for found in own(path):
            reach(found, seen)
    return seen


@pytest.mark.parametrize("path", NO_TORCH)
def test_tables_are_read_without_torch(path):
    for found in reach(ROOT / "fmnist" / path, set()):
        assert not [module for module in imports(found) if module.partition(".")[0] in ("torch", "lightning")], name(
            found
        )


def test_there_is_no_circle():
    done = set()

    def visit(path, above):
        assert path not in above, " -> ".join(map(name, [*above, path]))
        if path not in done:
            for found in own(path):
                visit(found, [*above, path])
            done.add(path)

    for path in FILES:
        visit(path, [])


WITHOUT_TRAINER = """
import sys
from fmnist import load
load
from fmnist.__main__ import main
run, page = sys.argv[1:]
assert main(["predict", "--ckpt_path", run, "--images", "docs/boot.png"]) == 0
assert main(["export", "--ckpt_path", run, "--output", page]) == 0
print(*sys.modules)
"""


def test_what_uses_a_model_imports_nothing_large(tested, tmp_path):
    words = [sys.executable, "-c", WITHOUT_TRAINER, tested / "lightning_logs/version_0", tmp_path / "page.html"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {module.partition(".")[0] for module in done.stdout.splitlines()[-1].split()}
    assert not loaded & {"lightning", "lightning_fabric", "torchmetrics", "torchvision", "matplotlib", "jsonargparse"}
    assert "torch" in loaded


# What the package uses although its library does not promise it, and why nothing public does. Eight are too many.
NEEDED = {
    "_Unpickler": "the public one is in C: it has no table of operations, and allocates the memory that a file claims",
    "jsonargparse._typehints": "Adam would be given the learning rate of SGD",
    "_typehints.discard_init_args_on_class_path_change =": "the same",
    "HelpFormatter._get_help_string": "argparse has no other way to change what is said of an option",
    "trainer.loggers =": "the folder of a logger is known after the trainer is made",
}


def test_private_names_of_libraries_are_needed():
    found = {name: place for place, name in find_private_names()}
    assert found.keys() == NEEDED.keys(), found
