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
prints so). A last line has what ends an epoch of `configs/mlp.yaml`: validation, calibration, checkpoints, history.
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
from functools import partial
from importlib.util import find_spec
from itertools import islice, pairwise
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
from fmnist.data.sources.fashion_mnist import FashionMNIST

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
    share = statistics.median(epoch_ends(args.root, args.repeats + 1, args.batches))
    print(f"\nvalidation, calibration, checkpoints and history: {share:.1%} of an epoch of configs/mlp.yaml")
    results.append({"row": "epoch's end", "share": share})
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


def epoch_ends(root: str, epochs: int, batches: int | None) -> list[float]:
    """Trains with ``configs/mlp.yaml`` and returns, of all epochs but the last, the share after the last step."""
    started: list[float] = []
    stepped: list[float] = []
    begin, step = ImageClassifier.on_train_epoch_start, ImageClassifier.on_train_batch_end

    def note_begin(model: ImageClassifier) -> None:
        started.append(time.perf_counter())
        stepped.append(0.0)
        begin(model)

    def note_step(model: ImageClassifier, *args: Any) -> None:
        step(model, *args)
        stepped[-1] = time.perf_counter()

    config = Path(__file__).parent.parent / "configs" / "mlp.yaml"
    words = ["--config", config, "--data.source.root", Path(root).resolve(), "--trainer.max_epochs", epochs]
    words += ["--trainer.limit_train_batches", batches] if batches else []
    words += ["--data.val_size", 1 / 12]  # 5,000 of 60,000, in a part of the images as well
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        patch.object(ImageClassifier, "on_train_epoch_start", note_begin),
        patch.object(ImageClassifier, "on_train_batch_end", note_step),
    ):
        assert fmnist(["fit", *map(str, words), "--trainer.default_root_dir", folder]) == 0
    return [(after - end) / (after - before) for (before, after), end in zip(pairwise(started), stepped, strict=False)]


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
