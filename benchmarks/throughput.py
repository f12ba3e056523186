"""Time of a training epoch: `fit` as a user runs it, beside its floor and beside its peers.

    python benchmarks/throughput.py [--batch_sizes 64 128 256 1024] [--repeats 5] [--json FILE]

Everything trains 784-512-512-10 with plain SGD on the 60,000 images, in one process, an epoch of
each in turn after a short one to warm up; medians are compared. Only the ratios are claims; run it
on an otherwise idle machine. Without Keras, JAX and scikit-learn (`pip install --group bench`)
their rows are left out. The rows:

floor            plain PyTorch over uint8 tensors in memory, one index operation a batch, no logging
ours             `python -m fmnist fit`, the training part of its epoch
barebones        Lightning's floor: the same module and loader in a Trainer with barebones=True
tutorial         torchvision's dataset, ToTensor and a DataLoader, in a plain loop
plain Lightning  the same data and a textbook LightningModule: step-level self.log, metric forward
Keras (JAX)      Keras 3 on JAX, its fit on an array in memory
scikit-learn     MLPClassifier, its fit on an array in memory

In these all compute in float32. A second block has what each offers to be faster: `fit` with bf16-mixed,
Keras with both of its ways (a processor without bfloat16 does not take part: there `fit` stays in float32, and
prints so). The last lines have an epoch of the main job, `fit --config configs/mlp.yaml`, beside a bare loop of its
recipe and arithmetic that shifts, mixes, validates, fits the temperature and writes one checkpoint, in turns:
`--batch_sizes --options_at` prints only them.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("KERAS_BACKEND", "jax")

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets
from torchvision.transforms import ToTensor

from fmnist import MLP, FashionMNISTDataModule, ImageClassifier
from fmnist.__main__ import main as fmnist
from fmnist.data.augment import random_shift
from fmnist.data.sources.fashion_mnist import FashionMNIST
from fmnist.model.calibration import fit_temperature
from fmnist.training.loss import mixup
from fmnist.training.optimization import learning_rate_factor, make_optimizer

SGD = partial(torch.optim.SGD, lr=1e-3)
OPTIONS = {
    "ours": [],
    "flip and shift 2": ["--data.flip", "true", "--data.shift", "2"],
    "bf16-mixed": ["--trainer.precision", "bf16-mixed"],
}
KERAS = {  # type of its layers, and arithmetic of JAX's products
    "Keras (JAX)": ("float32", "float32"),
    "Keras, bf16 products": ("float32", "bfloat16"),
    "Keras, mixed": ("mixed_bfloat16", "float32"),
}

Epoch = Callable[[int], float]  # trains on so many batches and returns the seconds they took


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[64, 128, 256, 1024])
    parser.add_argument("--options_at", type=int, nargs="*", default=[64, 128, 256, 1024], help="of the second block")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each (default 5)")
    parser.add_argument("--batches", type=int, help="batches in an epoch (default all)")
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's that one epoch is no convergence, Lightning's on its defaults
    FashionMNIST(args.root).prepare()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; median of {args.repeats} epochs")
    results = []
    for batch in args.batch_sizes:
        results += measure(batch, contestants(batch, args.root), args)
    for batch in args.options_at:
        results += measure(batch, options(batch, args.root), args)
    results.append(print_main_job(main_job(args.root, args.repeats + 2, args.batches)))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


def measure(batch: int, rows: dict[str, Epoch], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times the epochs of all rows in turn, and prints a table of them."""
    batches = min(args.batches or 60_000, -(-60_000 // batch))
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for epoch in rows.values():
        epoch(min(batches, 50))
    for _ in range(args.repeats):
        for name, epoch in rows.items():
            seconds[name].append(epoch(batches))
    print(f"\nbatch {batch:<16}s / epoch   ms / step   / floor    / ours (min to max of the turns)", flush=True)
    results = []
    for name, values in seconds.items():
        bases = {base: seconds.get(base, ()) for base in ("floor", "ours")}
        ratios = {base: [v / w for v, w in zip(values, others, strict=False)] for base, others in bases.items()}
        median = {base: statistics.median(ratios[base]) if ratios[base] else None for base in ratios}
        result = {"batch": batch, "row": name, "seconds": statistics.median(values), "all": values, "ratio": median}
        floor = f"{median['floor']:.2f}" if median["floor"] else ""
        extent = f"({min(ratios['ours']):.2f} to {max(ratios['ours']):.2f})"
        step = 1000 * result["seconds"] / batches
        print(f"{name:22}{result['seconds']:9.3f}{step:12.3f}{floor:>10}{median['ours']:10.2f} {extent}", flush=True)
        results.append(result)
    return results


def print_main_job(epochs: list[dict[str, float]]) -> dict[str, Any]:
    """Prints the seconds of an epoch of the main job, by ``fit`` and in a bare loop."""
    medians = {name: statistics.median(epoch[name] for epoch in epochs) for name in ("fit", "bare")}
    ratios = [epoch["fit"] / epoch["bare"] for epoch in epochs]
    ratio, share = statistics.median(ratios), statistics.median(epoch["end"] / epoch["fit"] for epoch in epochs)
    print(
        f"\nconfigs/mlp.yaml: {medians['fit']:.3f} s an epoch, in a bare loop of the same recipe {medians['bare']:.3f}"
    )
    print(f"fit / bare loop: {ratio:.2f} (turns from {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"validation, calibration, checkpoints and history: {share:.1%} of an epoch of fit")
    return {"row": "main job", **medians, "ratio": ratio, "ratios": ratios, "share": share}


def contestants(batch: int, root: str) -> dict[str, Epoch]:
    """Makes the rows of a table of the first block."""
    images, labels = FashionMNIST(root).load(train=True)
    data = FashionMNISTDataModule(FashionMNIST(root), val_size=0, batch_size=batch)
    folder = datasets.FashionMNIST(root, train=True, transform=ToTensor())
    rows: dict[str, Epoch] = {
        "floor": plain_loop(MLP(), lambda: ((images[rows], labels[rows]) for rows in _order(len(images), batch))),
        "ours": partial(ours, batch, root, []),
        "barebones": partial(timed_fit, lambda: ImageClassifier(optimizer=SGD), data, barebones=True),
        "tutorial": plain_loop(textbook(), lambda: DataLoader(folder, batch, shuffle=True)),
        "plain Lightning": partial(timed_fit, PlainLightning, DataLoader(folder, batch, shuffle=True)),
    }
    if find_spec("keras") and find_spec("jax"):
        rows["Keras (JAX)"] = keras_fit(images, labels, batch, *KERAS["Keras (JAX)"])
    if find_spec("sklearn"):
        rows["scikit-learn"] = sklearn_fit(images, labels, batch)
    return rows


def options(batch: int, root: str) -> dict[str, Epoch]:
    """Makes the rows of a table of the second block."""
    rows: dict[str, Epoch] = {name: partial(ours, batch, root, flags) for name, flags in OPTIONS.items()}
    if find_spec("keras") and find_spec("jax"):
        images, labels = FashionMNIST(root).load(train=True)
        rows |= {name: keras_fit(images, labels, batch, *how) for name, how in KERAS.items()}
    return rows


def _order(size: int, batch: int) -> tuple[Tensor, ...]:
    return torch.randperm(size).split(batch)


def ours(batch: int, root: str, flags: list[str], batches: int) -> float:
    """Runs the command line's `fit`, in an empty folder, and reads the seconds in its ``times.csv``."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = ["--data.source.root", str(Path(root).resolve()), "--data.val_size", "0", "--data.batch_size", batch]
        words += ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e-3", "--trainer.default_root_dir", folder]
        words += ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", batches, *flags]
        assert fmnist(["fit", *map(str, words)]) == 0
        (times,) = Path(folder).rglob("times.csv")
        return float(times.read_text().splitlines()[1].split(",")[1])


class Clock(Callback):
    """Times a training epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops."""
        self.seconds = time.perf_counter() - self.start


def main_job(root: str, epochs: int, batches: int | None) -> list[dict[str, float]]:
    """Trains with ``configs/mlp.yaml``, by ``fit`` and in a bare loop, an epoch of each in turn.

    Returns:
        For each epoch but the first and the last the seconds of ``fit``, of its part after the last step, and those of
        the bare loop.
    """
    begin, step = ImageClassifier.on_train_epoch_start, ImageClassifier.on_train_batch_end
    times: list[dict[str, float]] = []
    bare: list[BareLoop] = []

    def start_epoch(model: ImageClassifier) -> None:
        if times:
            times[-1]["end"] = time.perf_counter()
        else:
            bare.append(BareLoop(model, epochs, batches))
        alone = bare[0].epoch(len(times), Path(folder) / "bare.ckpt")
        begin(model)
        times.append({"bare": alone, "start": time.perf_counter()})

    def end_step(model: ImageClassifier, *args: Any) -> None:
        step(model, *args)
        times[-1]["stepped"] = time.perf_counter()

    config = Path(__file__).parent.parent / "configs" / "mlp.yaml"
    argv = ["--config", config, "--data.source.root", Path(root).resolve(), "--trainer.max_epochs", epochs]
    argv += ["--trainer.limit_train_batches", batches] if batches else []
    argv += ["--data.val_size", 1 / 12]  # 5,000 of 60,000, in a part of the images as well
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        patch.object(ImageClassifier, "on_train_epoch_start", start_epoch),
        patch.object(ImageClassifier, "on_train_batch_end", end_step),
    ):
        assert fmnist(["fit", *map(str, argv), "--trainer.default_root_dir", folder]) == 0
    return [{"fit": t["end"] - t["start"], "end": t["end"] - t["stepped"], "bare": t["bare"]} for t in times[1:-1]]


class BareLoop:
    """The recipe of ``configs/mlp.yaml`` without Lightning: what an epoch of it costs at least.

    Args:
        model: A classifier that is about to be trained; its network and its data module's images are used.
        epochs: Length of the cosine.
        batches: Batches in an epoch; None for all.
    """

    def __init__(self, model: ImageClassifier, epochs: int, batches: int | None) -> None:
        data = model.trainer.datamodule  # type: ignore[attr-defined]
        self.train, self.val, self.size = data.train_set, data.val_set, data.batch_size
        self.network, self.settings, self.shift = deepcopy(model.network), model.hparams, data.shift
        self.bf16 = model.trainer.precision == "bf16-mixed"
        self.batches = batches or -(-len(self.train) // self.size)
        self.steps = epochs * self.batches
        self.optimizer = make_optimizer(self.settings["optimizer"], self.network.parameters())

    def epoch(self, number: int, path: Path) -> float:
        """Trains, validates, fits the temperature and saves. Returns the seconds."""
        start = time.perf_counter()
        self.network.train()
        losses, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for step, rows in enumerate(_order(len(self.train), self.size)[: self.batches]):
            done = number * self.batches + step
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] = 0.4 * learning_rate_factor(done, self.steps, 0.05, "cosine")
            images, labels = random_shift(self.train.images[rows], self.shift), self.train.labels[rows]
            images, targets = mixup(images, F.one_hot(labels, 10).float(), self.settings["mixup"])
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                logits = self.network(images)
                loss = F.cross_entropy(logits, targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses += loss.detach() * len(labels)
            right += (logits.argmax(1) == labels).sum()
        self.network.eval()
        with torch.inference_mode():
            logits = torch.cat([self.network(images) for images in self.val.images.split(1000)])
        temperature = fit_temperature(logits, self.val.labels)
        accuracy = (logits.argmax(1) == self.val.labels).double().mean().item()
        found = {"epoch": number, "temperature": temperature, "accuracy": accuracy, "loss": losses, "right": right}
        torch.save({**found, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
        return time.perf_counter() - start


def timed_fit(make: Callable[[], LightningModule], data: Any, batches: int, barebones: bool = False) -> float:
    """Trains a module for an epoch with Lightning's own Trainer."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": batches, "callbacks": [clock], "devices": 1}
        # the bar of a default Trainer would cost more still
        options |= {"barebones": True} if barebones else {"default_root_dir": folder, "enable_progress_bar": False}
        options["enable_model_summary"] = False
        trainer = Trainer(**options)
        trainer.fit(make(), data)
    return clock.seconds


def plain_loop(model: nn.Module, loader: Callable[[], Any]) -> Epoch:
    """Makes a function that trains without Lightning."""
    optimizer = SGD(model.parameters())

    def epoch(batches: int) -> float:
        start = time.perf_counter()
        for images, labels in islice(loader(), batches):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - start

    return epoch


def textbook() -> nn.Sequential:
    """Makes the network as tutorials write it."""
    hidden = (nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))


class PlainLightning(LightningModule):
    """A LightningModule as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = textbook()
        self.accuracy = MulticlassAccuracy(10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss."""
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        self.accuracy(logits, labels)
        self.log("train_loss", loss)
        self.log("train_acc", self.accuracy)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns plain SGD."""
        return SGD(self.parameters())


def keras_fit(images: Tensor, labels: Tensor, batch: int, layers: str, products: str) -> Epoch:
    """Makes a function that trains with Keras 3, with layers of such a type and such an arithmetic of products."""
    import jax
    import keras

    pixels, classes = images.numpy().squeeze(1).astype("float32") / 255, labels.numpy()
    hidden = [keras.layers.Dense(512, activation="relu", dtype=layers) for _ in range(2)]
    model = keras.Sequential([keras.layers.Flatten(), *hidden, keras.layers.Dense(10, dtype=layers)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(1e-3), loss=loss, metrics=["accuracy"])

    def epoch(batches: int) -> float:
        start = time.perf_counter()
        with jax.default_matmul_precision(products):
            model.fit(pixels[: batches * batch], classes[: batches * batch], batch_size=batch, epochs=1, verbose=0)
        return time.perf_counter() - start

    epoch(-(-len(labels) // batch))  # compiles for the last, smaller batch as well
    return epoch


def sklearn_fit(images: Tensor, labels: Tensor, batch: int) -> Epoch:
    """Makes a function that trains with scikit-learn."""
    from sklearn.neural_network import MLPClassifier

    pixels, classes = images.flatten(1).numpy().astype("float32") / 255, labels.numpy()
    options: dict[str, Any] = {"solver": "sgd", "momentum": 0, "alpha": 0, "learning_rate_init": 1e-3, "max_iter": 1}

    def epoch(batches: int) -> float:
        model = MLPClassifier((512, 512), batch_size=batch, **options)
        start = time.perf_counter()
        model.fit(pixels[: batches * batch], classes[: batches * batch])
        return time.perf_counter() - start

    return epoch


if __name__ == "__main__":
    main()
