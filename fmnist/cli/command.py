"""The command line: LightningCLI for fit, validate and test; a plain function for prepare."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # lightning 2.6 calls deprecated functions

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO

from fmnist.cli.export import export
from fmnist.cli.parser import EPILOG, Parser
from fmnist.cli.prepare import prepare
from fmnist.cli.screen import _device, _quiet, _say
from fmnist.cli.start import _resolve, _scan
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.errors import UserError, check
from fmnist.evaluation.report import write_report
from fmnist.evaluation.results import class_table, headline, measure, origin, write_metrics
from fmnist.inference.predictions import STDOUT, check_output, label_rows, write_rows
from fmnist.inference.predictor import Predictor
from fmnist.inference.stream import classify_files, find_pictures
from fmnist.runs import folder as runs
from fmnist.runs.checkpoint import Checkpoint, read_checkpoint
from fmnist.runs.settings import SHARED_KEYS, read_run_settings
from fmnist.training.checkpoint_io import AtomicCheckpointIO
from fmnist.training.classifier import ImageClassifier
from fmnist.training.history import History
from fmnist.training.metrics import in_order
from fmnist.training.run import RunCheckpoint, RunFolder, dump_settings, run_checkpoints
from fmnist.training.trainer import EpochBar, Interrupt, NoProfiler

DEFAULT_SOURCE = {"data.source": {"class_path": "fmnist.FashionMNIST"}}


def run(verb: str, description: str, argv: list[str]) -> None:
    """Runs a verb, described in a few words, with what was typed after it."""
    _quiet()
    if verb != "fit" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up; a training is stopped by Lightning
    options = {"usage": f"fmnist {verb} [options]", "description": f"{description[0].upper()}{description[1:]}."}
    try:
        if verb == "prepare":
            _prepare(argv, options)
        elif verb == "export":
            _export(argv, options)
        else:
            _CLI(verb, argv, options)
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        hint = "; continue with: python -m fmnist fit --ckpt_path last" if verb == "fit" else ""
        raise UserError(f"another process of this command has ended: see what it said{hint}") from error


class _CLI(LightningCLI):
    """LightningCLI for one verb, with checkpoints resolved and runs kept in folders of their own."""

    def __init__(self, verb: str, argv: list[str], options: dict[str, str]) -> None:
        self.verb = verb
        self.checkpoint_path = Path()
        self.checkpoint: Checkpoint = {}
        self.inherited: dict[str, Any] = {}
        super().__init__(
            ImageClassifier,
            FashionMNISTDataModule,
            save_config_callback=RunFolder if verb == "fit" else None,
            trainer_defaults={
                "max_epochs": 10,
                "devices": 1,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            seed_everything_default=42,
            parser_kwargs={verb: {**options, "epilog": EPILOG[verb]}},
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=[verb, *argv],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Returns this verb alone: building the options of the others would take seconds."""
        return {self.verb: super().subcommands()[self.verb] | {"verbose", "weights_only", "return_predictions"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Names the default source in the parser, so that ``--data.source.root X`` works by itself."""
        parser.set_defaults(DEFAULT_SOURCE)
        if self.verb != "fit":
            tta = "'flip' averages over each image and its mirror image: for networks trained with --data.flip true."
            parser.add_argument("--tta", type=Literal["none", "flip"], default="none", help=tta)
        if self.verb == "test":
            parser.add_argument("--report", type=bool, default=True, help="Write report.html beside metrics.json.")
        if self.verb == "predict":
            images = "A picture, a folder or a pattern to classify instead of the test images."
            parser.add_argument("--images", type=str | None, help=images)
            output = "File to write, .csv or .jsonl, or - for standard output."
            parser.add_argument("--output", type=str | None, help=output)
            parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
            parser.add_argument("--index", type=int | None, help="Print the prediction for this test image instead.")
            saved = "Folder for what the network saw of each picture."
            parser.add_argument("--save_converted", type=str | None, help=saved)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the words typed, on top of the settings of the run that the checkpoint belongs to."""
        words = self.words = list(args)
        typed = _scan(words)
        asks_for_help = {"-h", "--help"} & {*words} or any(word.startswith("--print_config") for word in words)
        root = Path(typed.default_root_dir or ".")
        if typed.ckpt_path or not (self.verb == "fit" or asks_for_help):
            path = self.checkpoint_path = _resolve(typed.ckpt_path, root, self.verb == "fit")
            parts = SHARED_KEYS if self.verb == "fit" else () if typed.images else ("data",)
            inherited = self.inherited = read_run_settings(path, parts, typed.named)
            if path.is_file():
                self.checkpoint = read_checkpoint(path, typed.named)
            chosen = ["--ckpt_path", str(path) if self.checkpoint else "null"]
            words = [words[0], "--config", json.dumps(inherited), *words[1:], *chosen]
        try:
            self.config = parser.parse_args(words)
        except UnicodeDecodeError as error:
            raise UserError(f"a configuration file is not text: {error}") from error
        seed = self.config[self.verb].seed_everything
        check(0 <= seed < 2**32, f"seed_everything is {seed}: it must be at least 0 and below 2**32")
        if self.verb == "fit" and not typed.ckpt_path:
            self._take_requeued(root)

    def _take_requeued(self, root: Path) -> None:
        """Continues the run that this SLURM job had begun before it was put into the queue again."""
        path = runs.find_requeued(root, dump_settings(self._parser("fit"), self.config["fit"]))
        if path:
            self.checkpoint_path = path
            if path.is_file():
                self.checkpoint = read_checkpoint(path)
                self.config["fit"].ckpt_path = str(path)

    def _parse_ckpt_path(self) -> None:
        """Takes the model's settings from the checkpoint, and names those that were asked to differ."""
        if not self.checkpoint:
            return
        asked = self.config[self.verb].model.as_dict()
        kept = {k: v for k, v in self.checkpoint["hyper_parameters"].items() if not k.startswith("_")}
        self.config = self.parser.parse_object({self.verb: {"model": kept}}, self.config)
        defaults = self._parser(self.verb).get_defaults().model.as_dict()
        for name, value in self.config[self.verb].model.as_dict().items():
            typed = any(word.startswith(f"--model.{name}") for word in self.words)
            if asked[name] != value and (typed or asked[name] != defaults[name]):
                _say(f"notice: model.{name} stays {value}, as in the checkpoint ({asked[name]} was given)")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with what every run must have."""
        config = self.config_init[self.verb].trainer
        callbacks: list[Any] = []
        tensorboard = config.logger in (True, None)
        if self.verb == "fit":
            callbacks = [
                Interrupt(),
                History(),
                *run_checkpoints(self.datamodule.val_size > 0 and config.limit_val_batches != 0),
            ]
            self.save_config_kwargs = {
                "checkpoint": self.checkpoint_path,
                "step": self.checkpoint.get("global_step", 0),
                "tensorboard": tensorboard,
            }
        if self.verb != "fit" or tensorboard:
            kwargs["logger"] = False  # an evaluation logs nothing; a training gets its logger with its folder
        kwargs["profiler"] = config.profiler or NoProfiler()
        plugins = _as_list(config.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        if not any(isinstance(callback, ProgressBar) for callback in _as_list(config.callbacks)):
            shown = config.enable_progress_bar is not False and sys.stdout.isatty()
            kwargs["enable_progress_bar"] = shown
            callbacks += [EpochBar(refresh_rate=20)] if shown else []
        self.trainer_defaults["callbacks"] = callbacks
        try:
            return super().instantiate_trainer(**kwargs)
        except (ImportError, TypeError, ValueError) as error:  # how the trainer refuses a setting
            raise UserError(f"trainer: {error}") from error

    def fit(self, model: ImageClassifier, **kwargs: Any) -> None:
        """Trains, and says where things are."""
        done = self.checkpoint.get("epoch", -1) + 1
        if done and 0 < (self.trainer.max_epochs or 0) <= done:
            _say(f"{self.checkpoint_path} has all {done} epochs: nothing to do; for more, raise --trainer.max_epochs")
            return
        self.datamodule.check_batch_size(self.trainer.world_size)
        some = self.trainer.max_epochs != 0 and self.config_init.fit.trainer.limit_train_batches != 0
        check(some, "there is nothing to train: trainer.max_epochs or trainer.limit_train_batches is 0")
        if done:
            self._check_continued()
        else:
            _say(f"fit on {_device(self.trainer)}")
            if run := runs.run_folder(self.checkpoint_path):
                _say(f"notice: {run} was stopped before its first epoch had ended, and begins again")
        best = next(callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint))
        try:
            self.trainer.fit(model, **kwargs)
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"torch.compile failed, so train with --model.compile false: {reason}") from error
            if "Early stopping conditioned on metric" not in str(error):
                raise
            raise UserError(str(error)) from error
        except (SystemExit, KeyboardInterrupt):  # how Lightning ends after SIGTERM and Ctrl-C
            if (folder := Path(str(best.dirpath))).is_dir():
                _say(f"stopped; continue with: python -m fmnist fit --ckpt_path {folder.parent}")
            raise
        if best.best_model_path:
            score = f"validation accuracy {best.best_model_score:.4f}" if best.monitor else "last epoch, no validation"
            _say(f"run:  {Path(best.best_model_path).parent.parent}")
            _say(f"best: {best.best_model_path} ({score})")
            _say(f"test: python -m fmnist test --ckpt_path {best.best_model_path}")

    def _check_continued(self) -> None:
        """Refuses what cannot be continued exactly, and says what will be different."""
        before = self.inherited.get("trainer", {})
        whole_epochs = self.trainer.max_steps == before.get("max_steps", -1) == -1
        check(whole_epochs, "only whole epochs are continued: a training with --trainer.max_steps cannot be")
        whole = "optimizer_states" in self.checkpoint
        check(whole, f"{self.checkpoint_path} cannot be continued: it has no optimizer")
        self._load_weights()
        if not before:
            _say(
                "notice: the checkpoint lies outside a run, so its settings are unknown: those of this command are used"
            )
        planned, now = before.get("max_epochs"), self.trainer.max_epochs
        if planned not in (None, now):
            rest = "" if self._constant_rate() else ": the learning rate follows the schedule of the new length"
            _say(f"notice: the training was planned for {planned} epochs and is now for {now}{rest}")

    def _constant_rate(self) -> bool:
        return self.model.hparams["lr_schedule"] == "constant" and not self.model.hparams["warmup_ratio"]

    def validate(self, datamodule: FashionMNISTDataModule, **_: Any) -> None:
        """Evaluates on the validation images and prints a table."""
        check(datamodule.val_size > 0, "data.val_size is 0, so nothing is left to validate on: give --data.val_size")
        for name, value in sorted(self._evaluate("validate").items()):
            _say(f"  {name:16}{value:10.4f}")

    def test(self, **_: Any) -> None:
        """Evaluates on the test images, prints tables and writes ``test/metrics.json`` and ``test/report.html``."""
        start = time.monotonic()
        self._evaluate("test")
        if self.trainer.is_global_zero:
            logits, labels = self.model.tested
            temperature = self.model.temperature.item()
            metrics = measure(logits, labels, self.model.hparams["class_names"], temperature)
            metrics |= {"tta": self.model.tta, **origin(self.checkpoint_path, self.checkpoint)}
            metrics |= {"device": _device(self.trainer), "seconds": round(time.monotonic() - start, 3)}
            _say("\n".join([*class_table(metrics), "", *headline(metrics)]))
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                self._write_results(metrics, logits)

    def _write_results(self, metrics: dict[str, Any], logits: torch.Tensor) -> None:
        folder = runs.results_folder(self.checkpoint_path, self.model.tta)
        runs.check_no_links(folder.parent, folder.name)
        folder.mkdir(exist_ok=True)
        (folder / "report.html").unlink(missing_ok=True)  # that of another test
        write_metrics(metrics, folder / "metrics.json")
        _say(f"written: {folder / 'metrics.json'}")
        if self.config_init[self.verb].report:
            test = self.datamodule.test_set
            write_report(metrics, self.model.network, logits, test.images, test.labels, folder / "report.html")
            _say(f"written: {folder / 'report.html'}")

    def predict(self, **_: Any) -> None:
        """Classifies pictures, or the test images: all into a file, or one on the screen."""
        settings = self.config_init[self.verb]
        check(settings.images or not settings.save_converted, "--save_converted needs --images")
        if settings.index is not None:
            unwanted = settings.output is None and settings.images is None
            check(unwanted, "--index prints one prediction of a test image: leave out --output and --images")
            self._predict_one(settings.index)
            return
        if settings.output is None:
            raise UserError("say where the predictions go: --output FILE.csv, FILE.jsonl or - for the screen")
        output = Path(settings.output)
        check_output(output, settings.overwrite)
        if settings.images is None:
            self._predict_test_images(output)
        else:
            self._predict_pictures(settings.images, output, settings.save_converted)

    def _predict_pictures(self, images: str, output: Path, save_converted: str | None) -> None:
        paths = find_pictures(images)
        check(str(output) not in paths, f"--output {output}: this is one of the pictures")
        seen = Path(save_converted) if save_converted else None
        if seen:
            unused = not seen.exists() or (seen.is_dir() and not any(seen.iterdir()))
            check(unused, f"--save_converted {seen}: this exists; give a new or an empty folder")
            inside = Path(images).is_dir() and seen.resolve().is_relative_to(Path(images).resolve())
            check(not inside, f"--save_converted {seen}: this is inside the folder of the pictures")
        self._load_weights()
        predictor = Predictor(self.model.to(self.trainer.strategy.root_device))
        failed: list[str] = []
        write_rows(classify_files(predictor, paths, seen, failed), output)
        self._say_written(output, len(paths) - len(failed))
        if failed:
            some = f"{len(failed):,} of {len(paths):,} files could not be read"
            _say(f"notice: {some}: the column 'error' says why", sys.stderr if output == STDOUT else None)

    def _predict_test_images(self, output: Path) -> None:
        self._load_weights()
        batches: Any = self.trainer.predict(self.model, datamodule=self.datamodule, return_predictions=True)
        check(bool(batches), "there is nothing to predict: trainer.limit_predict_batches is 0")
        probabilities = self._gather(torch.cat(batches))
        if self.trainer.is_global_zero:
            labels = self.datamodule.test_set.labels[: len(probabilities)]  # fewer under limit_predict_batches
            write_rows(label_rows(probabilities, labels, self.datamodule.class_names), output)
            self._say_written(output, len(labels))

    def _say_written(self, output: Path, count: int) -> None:
        if output != STDOUT:
            _say(f"written: {output} ({count:,} predictions)")

    def _gather(self, share: torch.Tensor) -> torch.Tensor:
        """Returns the rows of all processes in the order of the data."""
        shares: list[Any] = [share.cpu()] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(shares, share.cpu())
        return in_order(torch.cat(shares))

    def _predict_one(self, index: int) -> None:
        self._load_weights()
        self.datamodule.prepare_data()
        self.datamodule.setup("predict")
        test = self.datamodule.test_set
        check(0 <= index < len(test), f"--index {index}: the test images are numbered from 0 to {len(test) - 1}")
        with torch.inference_mode():
            probabilities = self.model.eval().probabilities(test.images[index : index + 1])
        (row,) = label_rows(probabilities, test.labels[index : index + 1], self.datamodule.class_names)
        _say(f'predicted "{row["predicted"]}" ({row["probability"]:.1%}), actual "{row["actual"]}"')

    def _evaluate(self, verb: str) -> dict[str, float]:
        self._load_weights()
        found: list[dict[str, float]]
        found = getattr(self.trainer, verb)(self.model, datamodule=self.datamodule, verbose=False)
        check(len(found) == 1, f"there is nothing to {verb}: a limit of the trainer is 0")
        return found[0]

    def _load_weights(self) -> None:
        self.model.tta = self.config_init[self.verb].get("tta", "none")
        self.model.configure_model()
        self.trainer.precision_plugin.convert_module(self.model)  # before the weights come, or 64 bits are cut to 32
        try:
            self.model.load_state_dict(self.checkpoint["state_dict"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{self.checkpoint_path}: the weights do not fit the network it describes") from error
        epoch = self.checkpoint["epoch"] + 1
        # standard output may be wanted for predictions alone
        file = sys.stderr if self.config_init[self.verb].get("output") == "-" else sys.stdout
        _say(f"{self.verb}: {self.checkpoint_path} (epoch {epoch}) on {_device(self.trainer)}", file)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _export(argv: list[str], options: dict[str, str]) -> None:
    parser = Parser(**options, epilog=EPILOG["export"])
    parser.add_function_arguments(export, skip={"overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
    export(**parser.parse_args(argv).as_dict())


def _prepare(argv: list[str], options: dict[str, str]) -> None:
    _scan(argv)
    parser = Parser(**options, epilog=EPILOG["prepare"])
    parser.add_argument("-c", "--config", action="config", help="Configuration file; only its data part counts.")
    parser.add_class_arguments(FashionMNISTDataModule, "data")
    parser.set_defaults(DEFAULT_SOURCE)
    parser.add_function_arguments(prepare, skip={"data"})
    for key in {*SHARED_KEYS} - {"data"}:
        parser.add_argument(f"--{key}", type=Any, help=argparse.SUPPRESS)  # so that any configuration is accepted
    made = parser.instantiate_classes(parser.parse_args(argv))
    prepare(made.data, made.show)
