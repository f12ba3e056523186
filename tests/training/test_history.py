import csv
import io
from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.optim import SGD

from fmnist import FashionMNISTDataModule, History, ImageClassifier, UserError, report
from fmnist.plots import draw_curves
from fmnist.runs.tables import read_seconds


@pytest.fixture
def fit(workplace):
    def fit(history, val_size=100, ckpt_path=None, others=(), **options):
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **options}
        options["enable_checkpointing"] = False
        trainer = Trainer(accelerator="cpu", callbacks=[history, *others], num_sanity_val_steps=2, **options)
        trainer.fit(ImageClassifier(hidden_dims=[8]), FashionMNISTDataModule(val_size=val_size), ckpt_path=ckpt_path)
        return trainer

    return fit


def read(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_row_per_epoch_as_table_and_picture(fit, workplace, capsys):
    trainer = fit(History("out"), max_epochs=3)
    rows = read(workplace / "out")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["8", "16", "24"]
    for key in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert float(rows[-1][key]) == pytest.approx(trainer.callback_metrics[key].item())
    with Image.open(workplace / "out" / "curves.png") as picture:
        assert picture.size == (900, 350)
    assert sorted(path.name for path in (workplace / "out").iterdir()) == ["curves.png", "metrics.csv", "times.csv"]
    times = [line.split(",") for line in (workplace / "out" / "times.csv").read_text().splitlines()]
    assert [epoch for epoch, _ in times] == ["epoch", "1", "2", "3"]
    assert all(0 < float(seconds) < 60 for _, seconds in times[1:])
    assert read_seconds(workplace / "out") == pytest.approx(sum(float(seconds) for _, seconds in times[1:]))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "val loss " in lines[0]


def test_a_test_in_a_notebook_has_its_report(fit, workplace):
    trainer = fit(History("out"), max_epochs=2)
    with pytest.raises(UserError, match="nothing has been tested"):
        report(trainer)
    trainer.test(trainer.lightning_module, trainer.datamodule, verbose=False)
    metrics = report(trainer, "notebook.html")
    assert metrics["acc"] == pytest.approx(trainer.callback_metrics["test/acc"].item())
    page = (workplace / "notebook.html").read_text(encoding="utf-8")
    assert "Network in memory, trained for 2 epochs" in page.replace("</code>", "")
    assert "Learning curves" in page
    assert "How to repeat this" not in page


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of epochs that were drawn, where epochs are too short to be drawn one by one."""
    drawn = []
    monkeypatch.setattr("fmnist.training.history.DRAW_EVERY", 3600)
    monkeypatch.setattr(
        "fmnist.training.history.draw_curves", lambda rows, path, harder: drawn.append(len(rows)) or path.touch()
    )
    return drawn


def test_short_epochs_are_not_drawn_one_by_one(fit, drawn, monkeypatch):
    fit(History("out"), max_epochs=3)
    assert drawn == [3]
    monkeypatch.setattr("fmnist.training.history.DRAW_EVERY", 0)
    fit(History("long"), max_epochs=3)
    assert drawn == [3, 1, 2, 3]


def test_a_stopped_training_is_drawn(fit, workplace, drawn):
    class Stop(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fit(History("out"), max_epochs=3, others=[Stop()])
    assert drawn == [2]


def test_a_table_that_cannot_be_replaced_does_not_end_the_training(fit, workplace, monkeypatch, capsys):
    """As on Windows, while a spreadsheet shows it; the next epoch writes all rows."""
    replace, refused = Path.replace, []

    def refuse(self, target):
        if target.name == "metrics.csv" and len(refused) < 5:
            refused.append(target)
            raise PermissionError(13, "Access is denied", str(self), None, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fit(History("out"), max_epochs=2)
    assert "note: out/metrics.csv: Access is denied; close it elsewhere, training goes on" in capsys.readouterr().out
    assert [row["epoch"] for row in read(workplace / "out")] == ["1", "2"]


def test_goes_to_the_log_folder_by_default(fit, workplace):
    fit(History(), max_epochs=1, default_root_dir="logs")
    assert len(read(workplace / "logs")) == 1


def test_resumed_training_continues_the_table(fit, workplace):
    fit(History("a"), max_epochs=2).save_checkpoint("half.ckpt")
    fit(History("b"), max_epochs=4, ckpt_path="half.ckpt")
    rows = read(workplace / "b")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[:2] == read(workplace / "a")


def test_epochs_without_validation_leave_its_columns_empty(fit, workplace):
    fit(History("out"), max_epochs=2, check_val_every_n_epoch=2)
    assert [row["val/loss"] != "" for row in read(workplace / "out")] == [False, True]


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_no_validation_at_all(fit, workplace):
    fit(History("out"), val_size=0, max_epochs=2)
    assert [row["val/acc"] for row in read(workplace / "out")] == ["", ""]


def test_fast_dev_run_leaves_nothing(fit, workplace):
    fit(History("out"), fast_dev_run=True)
    assert not (workplace / "out").exists()


def test_of_equals_the_epoch_with_the_lowest_loss_is_marked():
    """Which is the one that best.ckpt keeps."""
    rows = [{"epoch": epoch, "val/acc": 0.9, "val/loss": loss} for epoch, loss in ((1, 0.4), (2, 0.3), (3, 0.5))]
    file = io.BytesIO()
    draw_curves(rows, file, "svg")
    assert b"kept: epoch 2" in file.getvalue()


def test_what_makes_training_look_worse_is_named_and_guessing_is_noticed(workplace, capsys):
    model = ImageClassifier(hidden_dims=[8], mixup=0.2, optimizer=lambda parameters: SGD(parameters, lr=0.0))
    data = FashionMNISTDataModule(val_size=100, shift=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    Trainer(accelerator="cpu", callbacks=[History("out")], max_epochs=1, enable_model_summary=False, **quiet).fit(
        model, datamodule=data
    )
    first, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith("note: training is measured with mixup, shift, validation without: ")
    assert last.startswith("note: after one epoch the network is hardly better than guessing: check the learning rate")
