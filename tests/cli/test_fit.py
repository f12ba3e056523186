import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from fmnist import FashionMNISTDataModule, ImageClassifier
from fmnist.devices import has_bfloat16
from fmnist.model.calibration import fit_temperature
from fmnist.runs import checkpoint
from fmnist.runs.folder import lock
from tests.conftest import ROOT, source, spawn

RUN = Path("lightning_logs/version_0")
SMALL = ("--data.val_size", 100, "--model.hidden_dims", "[16]", "--trainer.max_epochs", 2)


@pytest.fixture
def trained(workplace, cli):
    """A folder with one finished run. Returns what its training printed."""
    code, out, err = cli("fit", *SMALL, "--data.batch_size", 32, "--data.flip", "true")
    assert (code, err) == (0, "")
    return out


def weights(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


def test_fit_leaves_what_the_contract_says(trained):
    left = sorted(str(path.relative_to(RUN)) for path in RUN.rglob("*") if path.is_file())
    events = next(name for name in left if name.startswith("events.out.tfevents"))
    files = [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "curves.png",
        "ended",
        events,
        "lock",
        "metrics.csv",
        "times.csv",
    ]
    assert left == sorted(files)
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
    for part in ("fit on cpu", "epoch 2/2", f"run:  {RUN}", f"best: {RUN}/checkpoints/best.ckpt"):
        assert part in trained
    assert trained.endswith(f"curves: {RUN}/curves.png\nnext: fmnist test  # writes report.html\n")
    timed = r"^epoch [12]/2  train loss .*  val loss .*  \d+\.\d s$|^trained in \d+ s$"
    assert len(re.findall(timed, trained, re.MULTILINE)) == 3


def test_best_and_last_are_what_they_say(workplace, cli):
    # the last three epochs get every validation image right, so the loss decides
    cli("fit", *SMALL, "--model.optimizer.lr", 0.05, "--model.lr_schedule", "constant", "--trainer.max_epochs", 6)
    with (RUN / "metrics.csv").open() as file:
        scores = [(float(row["val/acc"]), -float(row["val/loss"])) for row in csv.DictReader(file)]
    best, last = (torch.load(RUN / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert [accuracy for accuracy, _ in scores[-3:]] == [1, 1, 1]
    assert best["epoch"] == scores.index(max(scores))
    assert last["epoch"] == 5


def test_without_validation_best_is_the_last_and_says_so(workplace, cli):
    code, out, err = cli("fit", *SMALL, "--data.val_size", 0)
    assert (code, err) == (0, "")
    assert "best.ckpt (last epoch, no validation)" in out
    assert torch.equal(weights(RUN / "checkpoints/best.ckpt"), weights(RUN / "checkpoints/last.ckpt"))
    code, _, err = cli("validate")
    assert code == 2
    assert "data.val_size is 0" in err


def test_test_evaluates_the_newest_runs_best(trained, cli):
    code, out, err = cli("test")
    assert (code, err) == (0, "")
    assert f"test: {RUN}/checkpoints/best.ckpt (epoch" in out
    metrics = json.loads((RUN / "test" / "metrics.json").read_text())
    assert metrics["num_samples"] == 200
    assert metrics["checkpoint"] == f"{RUN}/checkpoints/best.ckpt"
    assert f"accuracy {100 * metrics['acc']:.2f}% (95% interval " in out.splitlines()[1]
    assert "Ankle boot" in out
    assert f"report: {RUN}/test/report.html" in out
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"], (
        "an evaluation leaves no folder of its own"
    )


def test_temperature_is_that_of_the_checkpoints_own_epoch(trained, cli):
    for name in ("best", "last"):
        assert cli("validate", "--ckpt_path", name)[0] == 0
    state = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    model = ImageClassifier.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt").eval()
    data = FashionMNISTDataModule(val_size=100)
    data.setup("validate")
    with torch.inference_mode():
        best = fit_temperature(model(data.val_set.images), data.val_set.labels)
    assert state["temperature"].item() == pytest.approx(best, rel=1e-5)
    assert best != 1


def test_temperature_belongs_to_the_averaged_weights(workplace, cli):
    average = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")
    code, _, err = cli("fit", *SMALL, *average, "--model.normalization=batch")
    assert (code, err) == (0, "")
    test_temperature_is_that_of_the_checkpoints_own_epoch(None, cli)
    _, out, _ = cli("validate", "--ckpt_path", "last")
    with (RUN / "metrics.csv").open() as file:
        measured = [*csv.DictReader(file)][-1]
    accuracy, error, loss = (float(measured[f"val/{name}"]) for name in ("acc", "ece", "loss"))
    assert f"accuracy {100 * accuracy:.2f}% on 100 validation images\n" in out
    assert f"loss {loss:.4f}\ncalibration error {error:.4f}\n" in out


def test_without_validation_nothing_is_calibrated_and_test_says_so(workplace, cli):
    assert cli("fit", *SMALL, "--data.val_size", 0)[0] == 0
    code, out, _ = cli("test")
    assert code == 0
    assert "not calibrated: there were no validation images" in out
    metrics = json.loads((RUN / "test" / "metrics.json").read_text())
    assert metrics["temperature"] == 1
    assert metrics["ece"] == metrics["ece_uncalibrated"]


def test_validate_repeats_what_fit_had_measured(trained, cli):
    code, out, _ = cli("validate", "--ckpt_path", "last")
    assert code == 0
    score = trained.split("epoch 2/2")[1].split("acc ")[2].split("%")[0]
    assert f"accuracy {score}% on 100 validation images" in out


def test_a_checkpoint_outside_a_run_works_and_results_go_beside_it(trained, cli, workplace):
    (workplace / "shared").mkdir()
    shutil.copy(RUN / "checkpoints" / "best.ckpt", "shared/model.ckpt")
    shutil.rmtree("lightning_logs")
    assert cli("test", "--ckpt_path", "shared/model.ckpt")[0] == 0
    assert (workplace / "shared" / "test" / "metrics.json").is_file()


def test_evaluation_inherits_the_data_settings_of_the_run(trained, cli):
    shutil.move("data", "moved")
    os.environ["FMNIST_DATA"] = "/nowhere"
    code, _, err = cli("test", "--data.source.download", "false")
    assert code == 2
    assert "incomplete in data/FashionMNIST/raw" in err
    assert cli("test", "--data.source.root", "moved")[0] == 0


def test_order_of_precedence_is_checkpoint_then_config_then_flag(trained, cli, workplace):
    def val_size(*words):
        _, out, _ = cli("validate", *words, "--print_config")
        return yaml.safe_load(out)["data"]["val_size"]

    (workplace / "mine.yaml").write_text("data: {val_size: 48}")
    assert val_size() == 5000, "printing a configuration does not need a run"
    best = ("--ckpt_path", "best")
    assert val_size(*best) == 100
    assert val_size(*best, "--config", "mine.yaml") == 48
    assert val_size(*best, "--config", "mine.yaml", "--data.val_size", 56) == 56


def test_the_checkpoint_decides_the_network_and_says_so(trained, cli):
    code, out, _ = cli("test", "--model.dropout", 0.5, "--model.hidden_dims", "[512, 512]")
    assert code == 0
    assert "note: model.dropout is 0.0, as in the checkpoint, not 0.5" in out
    assert "note: model.hidden_dims is [16], as in the checkpoint, not [512, 512]" in out
    assert out.count("note:") == 2


def test_a_continued_run_keeps_its_optimizer(trained, cli):
    for argv, was, now in (
        (("--model.optimizer.lr", 0.5), "optimizer {'lr': 0.1}", "{'lr': 0.5}"),
        (("--model.optimizer", "Adam"), "optimizer torch.optim.sgd.SGD", "torch.optim.adam.Adam"),
        (("--model.dropout", 0.5), "dropout 0.0", "0.5"),
    ):
        code, _, err = cli("fit", "--ckpt_path", "last", *argv, "--trainer.max_epochs", 3)
        assert (code, err.count("\n")) == (2, 1)
        assert f"was trained with model.{was}, not {now}: a continued run keeps its own settings" in err
    assert cli("fit", "--ckpt_path", "last", "--model.optimizer.lr", 0.1, "--model.dropout", 0)[0] == 0


def test_the_folder_of_runs_may_be_set_in_a_configuration(workplace, cli):
    (workplace / "mine.yaml").write_text("trainer: {default_root_dir: there, max_epochs: 1}\ndata: {val_size: 100}")
    assert cli("fit", "--config", "mine.yaml")[0] == 0
    code, out, _ = cli("test", "--config", "mine.yaml")
    assert code == 0
    assert "test: there/lightning_logs/version_0/checkpoints/best.ckpt" in out


def test_predict_writes_what_test_measures(trained, cli):
    assert cli("test")[0] == 0
    accuracy = json.loads((RUN / "test" / "metrics.json").read_text())["acc"]
    for name in ("out.csv", "out.jsonl"):
        code, out, err = cli("predict", "--output", name)
        assert (code, err) == (0, "")
        assert f"written: {name} (200 predictions)" in out
    with Path("out.csv").open() as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [int(row["index"]) for row in table] == [line["index"] for line in lines] == list(range(200))
    assert sum(row["predicted"] == row["actual"] for row in table) == round(accuracy * 200)
    for row, line in zip(table, lines, strict=True):
        assert row["predicted"] == line["predicted"]
        probabilities = [float(value) for key, value in row.items() if key.startswith("p(")]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert max(probabilities) == float(row["probability"]) == line["probability"]


def test_predict_keeps_an_existing_file(trained, cli):
    Path("out.csv").write_text("precious")
    code, _, err = cli("predict", "--output", "out.csv")
    assert code == 2
    assert "out.csv: the file exists; add --overwrite to replace it" in err
    assert Path("out.csv").read_text() == "precious"
    assert cli("predict", "--output", "out.csv", "--overwrite")[0] == 0
    assert Path("out.csv").read_text().startswith("index,predicted,probability,p(T-shirt/top),")


def test_predict_of_a_part(trained, cli):
    assert cli("predict", "--output", "out.csv", "--trainer.limit_predict_batches", 1)[0] == 0
    assert len(Path("out.csv").read_text().splitlines()) == 201


def test_predict_prints_one(trained, cli):
    cli("predict", "--output", "out.jsonl")
    row = json.loads(Path("out.jsonl").read_text().splitlines()[7])
    code, out, err = cli("predict", "--index", 7)
    assert (code, err) == (0, "")
    line = f'predicted "{row["predicted"]}" ({100 * row["probability"]:.2f}%), actual "{row["actual"]}"'
    assert line in out


def test_divergence_keeps_the_last_good_checkpoint(trained, cli):
    good = weights(RUN / "checkpoints" / "best.ckpt")
    # the schedule of the continued training ends at a learning rate that no network survives
    saved = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    saved["optimizer_states"][0]["param_groups"][0]["lr"] = 1e30
    torch.save(saved, RUN / "checkpoints" / "last.ckpt")
    code, _, err = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert code == 2
    assert "training loss is nan after epoch 3 at learning rate 1e+30" in err
    assert torch.equal(weights(RUN / "checkpoints" / "best.ckpt"), good)
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize(
    "option",
    [
        "--data.num_workers=0",
        "--data.num_workers=1",
        "--trainer.check_val_every_n_epoch=3",
        "--trainer.precision=64-true",
    ],
)
def test_resumed_training_equals_the_uninterrupted_one(workplace, cli, option):
    changes = ("--model.dropout=0.2", "--data.flip=true", "--data.shift=1", option)
    settings = ("fit", *SMALL, *changes, "--trainer.max_epochs")
    assert cli(*settings, 4)[0] == 0
    assert cli(*settings, 2)[0] == 0
    code, out, err = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert (code, err) == (0, "")
    assert "run:  lightning_logs/version_1" in out
    first, second = (Path(f"lightning_logs/version_{n}") for n in (0, 1))
    assert torch.equal(weights(first / "checkpoints/last.ckpt"), weights(second / "checkpoints/last.ckpt"))
    assert torch.equal(weights(first / "checkpoints/best.ckpt"), weights(second / "checkpoints/best.ckpt"))
    assert len((first / "metrics.csv").read_text().splitlines()) == 5
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()


def test_a_finished_training_says_so(trained, cli):
    before = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    code, out, _ = cli("fit", "--ckpt_path", "last")
    assert code == 0
    assert "last.ckpt is already trained for 2 epochs. To continue, raise --trainer.max_epochs." in out
    assert {path: path.stat().st_mtime_ns for path in RUN.rglob("*")} == before


def test_a_training_stopped_in_its_first_epoch_begins_again_in_its_folder(trained, cli):
    before = (RUN / "metrics.csv").read_text()
    shutil.rmtree(RUN / "checkpoints")
    (RUN / "metrics.csv").unlink()
    (RUN / ".metrics.csv.1.part").touch()
    code, out, err = cli("fit", "--ckpt_path", "last")
    assert (code, err) == (0, "")
    assert f"note: {RUN} was stopped before its first epoch had ended, and begins again" in out
    assert (RUN / "metrics.csv").read_text() == before
    assert (RUN / "checkpoints" / "last.ckpt").is_file()
    assert not list(RUN.glob(".*.part"))
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]


def test_more_epochs_mean_another_schedule_and_are_announced(workplace, cli):
    assert cli("fit", *SMALL, "--model.lr_schedule=linear")[0] == 0
    code, out, _ = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert code == 0
    assert "planned for 2 epochs and is now for 4: the learning rate follows the schedule of the new length" in out
    with (RUN / "metrics.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.05, 0, 0.025, 0], abs=1e-9)
    assert "note:" not in cli("fit", "--ckpt_path", "last")[1]


def test_a_run_that_is_being_trained_is_not_continued(trained, cli):
    handle = lock(RUN)
    code, _, err = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert code == 2
    assert f"{RUN} is being trained by another process" in err
    os.close(handle)
    code, out, _ = cli("fit", "--ckpt_path", RUN, "--trainer.max_epochs", 3)
    assert code == 0
    assert "epoch 3/3" in out


def test_figures_of_a_test_go_with_the_weights_that_were_tested(trained, cli):
    assert cli("test")[0] == 0
    plain = json.loads((RUN / "test" / "metrics.json").read_text())
    assert plain["digests"]["checkpoint"] == hashlib.sha256((RUN / "checkpoints/best.ckpt").read_bytes()).hexdigest()
    (row,) = csv.DictReader(io.StringIO(cli("compare", "--format", "csv")[1]))
    assert float(row["test/acc"]) == plain["acc"]


def test_a_training_is_continued_by_epochs(trained, cli):
    code, _, err = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 9, "--trainer.max_steps", 100)
    assert code == 2
    assert "a run with --trainer.max_steps cannot be" in err


def test_a_checkpoint_taken_out_of_its_run_begins_a_new_record(trained, cli, workplace):
    shutil.copy(RUN / "checkpoints" / "last.ckpt", "taken.ckpt")
    words = (*SMALL, "--data.batch_size", 32, "--trainer.max_epochs", 3)
    code, out, _ = cli("fit", "--ckpt_path", "taken.ckpt", *words)
    assert code == 0
    assert "note: the checkpoint is outside a run" in out
    assert (workplace / "lightning_logs/version_1/checkpoints/best.ckpt").is_file()


def test_a_class_of_ones_own_works_when_it_is_named_by_the_user(workplace, cli, monkeypatch):
    (workplace / "mine.py").write_text("from fmnist import FashionMNIST\nclass Mine(FashionMNIST): pass\n")
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert cli("fit", *SMALL, "--data.source", "mine.Mine")[0] == 0
    code, _, err = cli("test")
    assert code == 2
    assert "was trained with mine.Mine; if you trust that code, name it yourself: fmnist test" in err
    assert cli("test", *err.split(" fmnist test ")[1].split())[0] == 0
    assert cli("test", "--config", RUN / "config.yaml")[0] == 0


def test_a_moved_run_keeps_its_best_score(trained, cli, workplace):
    shutil.move("lightning_logs", "elsewhere")
    code, _, err = cli("fit", "--ckpt_path", "elsewhere/version_0/checkpoints/last.ckpt", "--trainer.max_epochs", 3)
    assert (code, err) == (0, "")
    rows = [*csv.DictReader((workplace / "elsewhere/version_0/metrics.csv").read_text().splitlines())]
    record = torch.load("elsewhere/version_0/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert len(rows) == 3
    assert record["RunCheckpoint"]["score"][0] == pytest.approx(max(float(row["val/acc"]) for row in rows))


def test_a_continued_run_reads_its_checkpoint_once_and_removes_nothing_that_it_names(trained, cli, monkeypatch):
    last, read_archive, read = RUN / "checkpoints/last.ckpt", checkpoint.read_archive, []
    content, precious = torch.load(last, weights_only=True), Path("precious.txt")
    precious.touch()
    own, named = ModelCheckpoint(), f"local://{precious.absolute()}"
    paths = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), named)
    state = {**own.state_dict(), **paths, "dirpath": str(last.parent), "best_k_models": {named: torch.tensor(0.0)}}
    content["callbacks"][own.state_key] = state
    torch.save(content, last)
    monkeypatch.setattr(checkpoint, "read_archive", lambda path: read.append(path) or read_archive(path))
    more = ("--trainer.max_epochs", 3, "--trainer.callbacks+=ModelCheckpoint")
    code, out, err = cli("fit", "--ckpt_path", "last", *more)
    assert (code, err, read) == (0, "", [last])
    assert "epoch 3/3" in out
    assert precious.exists()
    assert torch.load(last, weights_only=True)["epoch"] == 2


def test_a_mistake_leaves_a_run_that_was_to_be_continued_as_it_was(trained, cli):
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    words = ("--trainer.max_epochs", 3, "--data.source.download", "false", "--data.source.root", "nowhere")
    os.environ["FMNIST_DATA"] = "nowhere"
    code, _, err = cli("fit", "--ckpt_path", "last", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file() and path in before} == before


@pytest.mark.parametrize("logger", ["false", "lightning.pytorch.loggers.CSVLogger"])
def test_other_loggers_do_not_change_where_a_run_lands(workplace, cli, logger):
    words = ["--trainer.logger", logger] + (["--trainer.logger.save_dir", "csv"] if "CSV" in logger else [])
    assert cli("fit", *SMALL, *words)[0] == 0
    assert (RUN / "checkpoints" / "best.ckpt").is_file()
    assert (RUN / "metrics.csv").is_file()
    assert not list(RUN.glob("events*"))
    assert Path("csv").exists() == ("CSV" in logger)


def test_users_add_callbacks(workplace, cli):
    early = (
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=val/acc",
        "--trainer.callbacks.mode=max",
    )
    code, out, err = cli("fit", *SMALL, *early, "--trainer.callbacks.patience=1", "--trainer.max_epochs", 50)
    assert (code, err) == (0, "")
    assert "epoch 50/50" not in out
    assert (RUN / "checkpoints" / "last.ckpt").is_file()


def test_users_own_checkpoints_go_into_the_run(workplace, cli):
    code, out, _ = cli("fit", *SMALL, "--trainer.callbacks+=ModelCheckpoint")
    assert code == 0
    assert f"best: {RUN}/checkpoints/best.ckpt" in out
    assert len(list((RUN / "checkpoints").glob("epoch=*.ckpt"))) == 1
    assert not Path("checkpoints").exists()


def test_saved_and_printed_configurations_can_be_used_again(trained, cli, workplace):
    code, out, _ = cli("fit", "--config", RUN / "config.yaml", "--print_config")
    assert code == 0
    (workplace / "printed.yaml").write_text(out)
    assert cli("fit", "--config", "printed.yaml")[0] == 0
    again = Path("lightning_logs/version_1")
    assert torch.equal(weights(RUN / "checkpoints/last.ckpt"), weights(again / "checkpoints/last.ckpt"))
    assert (RUN / "config.yaml").read_text() == (again / "config.yaml").read_text()


def test_fast_dev_run_leaves_nothing(workplace, cli):
    assert cli("fit", *SMALL, "--trainer.fast_dev_run", "true")[0] == 0
    assert not Path("lightning_logs").exists()


def test_debug_variable_shows_the_traceback(workplace):
    done = spawn("test", cwd=workplace, FMNIST_DEBUG="1")
    assert "Traceback" in done.stderr
    assert "UserError" in done.stderr


def test_a_whole_run_prints_no_warning(workplace, few):
    """In an interpreter that is told to show them all, from its first import on."""
    words = [*map(str, SMALL), *source(few), "--trainer.limit_train_batches=5"]
    commands = [["fit", *words], ["fit", *words, "--data.val_size=0"], ["test"], ["validate", "--data.val_size=99"]]
    code = f"from fmnist.__main__ import main; print(*map(main, {commands}))"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    done = subprocess.run([sys.executable, "-c", code], cwd=workplace, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "0 0 0 0"
    assert "Tip" not in done.stdout


def test_a_run_is_called_by_its_name(workplace, cli):
    words = ("--model.hidden_dims=[8]", "--data.val_size=100", "--trainer.max_epochs=1")
    assert cli("fit", *words, "--name", "first try")[0] == 0
    assert (RUN / "name").read_text() == "first try"
    assert "first try" not in (RUN / "config.yaml").read_text()
    code, _, err = cli("fit", *words, "--name", "first try")
    assert (code, err.count("\n")) == (2, 1)
    assert "--name first try: this is the name of lightning_logs/version_0; give another" in err
    assert cli("fit", *words)[0] == 0
    assert "test: lightning_logs/version_0/" in cli("test", "--ckpt_path", "first try")[1]
    assert "first try" in cli("compare")[1]
    code, _, err = cli("fit", "--ckpt_path", "first try", "--name", "other")
    assert (code, "leave it out where one is continued" in err) == (2, True)
    assert cli("fit", "--ckpt_path", "first try", "--trainer.max_epochs=2")[0] == 0
    assert [row.split(",")[0] for row in (RUN / "metrics.csv").read_text().splitlines()] == ["epoch", "1", "2"]
    assert not Path("lightning_logs/version_2").exists()


def test_a_precision_that_would_be_emulated_is_replaced_and_named(workplace, cli):
    words = ("--model.hidden_dims=[8]", "--data.val_size=100", "--trainer.max_epochs=1", "--trainer.accelerator=cpu")
    code, out, err = cli("fit", *words, "--trainer.precision=bf16-mixed")
    assert (code, err) == (0, "")
    missing = not has_bfloat16("cpu")
    assert ("note: this cpu device has no bfloat16: 32-true instead of bf16-mixed" in out) == missing
    kept = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["precision"]
    assert kept == ("32-true" if missing else "bf16-mixed"), "what was done is written down"


def test_weights_in_bfloat16_are_a_warning(workplace, cli):
    words = ("--model.hidden_dims=[8]", "--data.val_size=100", "--trainer.max_epochs=1", "--trainer.accelerator=cpu")
    code, out, _ = cli("fit", *words, "--trainer.precision=bf16-true")
    assert code == 0
    assert "warning: bf16-true rounds the weights" in out
    assert "bfloat16" not in cli("fit", *words)[1]
