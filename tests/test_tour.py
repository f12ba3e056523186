"""The tour for beginners, ``docs/tour.ipynb``, executed without Jupyter: what it shows is what is printed."""

import contextlib
import io
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import ROOT

TOUR = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in TOUR["cells"] if cell["cell_type"] == "code"]


def without_fractions(text):
    """Returns a text without what other processors compute otherwise, and with one name for all devices."""
    text = re.sub(r"image \d+: predicted .*|after \d+ steps", "", re.sub(r"\d+\.\d+", "0.0", text))
    return re.sub(r"device: \w+", "device: cpu", text)


def shorten(names):
    """Has the next cells read whole batches, and fit on some of them, which changes nothing but fractions."""
    if "NeuralNetwork" in names and "Batches" not in names:

        class Batches(names["Pictures"]):
            __getitems__ = names["Pictures"].__getitem__

        def make_loader():
            order = {"shuffle": True, "generator": torch.Generator().manual_seed(0)}
            return DataLoader(data, batch_size=64, collate_fn=lambda batch: batch, **order)

        data = Batches(names["train_set"].images, names["train_set"].labels)
        names.update(Batches=Batches, make_loader=make_loader)
    if "make_trainer" in names and not isinstance(names["make_trainer"], partial):
        names["make_trainer"] = partial(names["make_trainer"], limit_train_batches=150)


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_every_step_prints_what_is_shown(real_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    Path("data").symlink_to(real_root)
    names = {}
    for cell in CODE:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        shorten(names)
        shown = "".join("".join(part["text"]) for part in cell["outputs"] if part["output_type"] == "stream")
        assert without_fractions(printed.getvalue()) == without_fractions(shown)
    assert names["by_hand"] > 0.8 > names["slow"], "the learning rate is what the tutorial lacks"
    assert names["accuracy"] == pytest.approx(names["by_hand"], abs=0.002), "Lightning computes the same"
    few, more = (rows[-1] for rows in (names["few"], names["more"]))
    assert few["val/loss"] - few["train/loss"] > more["val/loss"] - more["train/loss"], "overfitting, and its cure"
    assert names["prediction"].name == "Ankle boot"


def test_it_is_executed_in_order_with_pictures_and_nothing_else():
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)]
    outputs = [part for cell in CODE for part in cell["outputs"]]
    assert {part.get("name", "picture") for part in outputs} == {"stdout", "picture"}, "no warnings"
    assert sum("image/png" in part.get("data", {}) for part in outputs) == 4
    assert all(path.stat().st_size < 500_000 for path in (ROOT / "docs").glob("*.ipynb"))
    assert not re.search(r'"(/[a-z]+){2,}|[A-Z]:\\\\', json.dumps([part.get("text") for part in outputs])), "no path"


def test_every_file_that_it_names_is_there():
    text = "".join("".join(cell["source"]) for cell in TOUR["cells"] if cell["cell_type"] == "markdown")
    files = re.findall(r"`([\w/]+\.py)`", text)
    everywhere = {path.name for path in (ROOT / "fmnist").rglob("*.py")}
    assert len(files) > 12
    assert "fmnist.cli" not in json.dumps(CODE)
    for name in files:
        assert (ROOT / name).is_file() if "/" in name else name in everywhere, name
