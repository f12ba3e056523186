"""Seconds from the start of a process to a saved network, and how often that network is 90% right.

    python benchmarks/time_to_accuracy.py [--seeds 5] [--json FILE]
    python benchmarks/time_to_accuracy.py --choose        how the numbers of epochs below were chosen

Every run is a process of its own that imports its libraries, trains 784-512-512-10 on 55,000 images
and saves the network; the wall time until then is counted, the test that follows is not. The rows
take turns, seed by seed. "ours" is `configs/mlp.yaml` with fewer epochs.
"usual" is what the peer's tutorials write: Adam with its default learning rate, the peer's default batch size,
or 64. "plain settings" are SGD with Nesterov momentum 0.9, learning rate 0.1, batch 128, weight decay 3e-4, label
smoothing 0.1 and a cosine with a warm-up of 5%, as far as the peer has them: scikit-learn has neither
the smoothing nor the schedule. Peers that are not installed (`pip install --group bench`) are left out.
What of these seconds is the start, `benchmarks/start.py` prints.
"""

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

CONFIGS = Path(__file__).parent.parent / "configs"
LIMIT = 15  # epochs
PLAIN = ("--data.batch_size", "128", "--model.lr_schedule", "cosine", "--model.warmup_ratio", "0.05")
PLAIN += ("--model.label_smoothing", "0.1", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1")
PLAIN += ("--model.optimizer.momentum", "0.9", "--model.optimizer.nesterov", "true")
PLAIN += ("--model.optimizer.weight_decay", "3e-4", "--model.optimizer.fused", "false", "--model.normalization", "none")
PLAIN += ("--model.mixup", "0", "--data.shift", "0")  # nothing that the peers cannot have
RECIPES = {"plain": PLAIN, "mlp": ("--config", str(CONFIGS / "mlp.yaml"))}

# Peer, recipe, and its epochs: ours the fewest with a validation accuracy of 91%, as the test images are
# harder; those of a tutorial the best of 15. benchmarks/NOTES.md has what --choose printed.
ROWS = {
    "ours": ("fmnist", "mlp", 20),
    "ours, plain settings": ("fmnist", "plain", 8),
    "PyTorch tutorial, usual": ("torch", "usual", 11),
    "PyTorch tutorial, plain settings": ("torch", "plain", 8),
    "plain Lightning, usual": ("lightning", "usual", 11),
    "plain Lightning, plain settings": ("lightning", "plain", 8),
    "Keras (JAX), usual": ("keras", "usual", 11),
    "Keras (JAX), plain settings": ("keras", "plain", 8),
    "scikit-learn, usual": ("sklearn", "usual", 14),
    "scikit-learn, plain settings": ("sklearn", "plain", 8),
}
Watch = Callable[[Any], None]  # is called after each epoch


class Data(NamedTuple):
    """The folder of the data set, and how many of its images are trained on."""

    root: str
    images: int


def main() -> None:
    """Measures and prints, or is one of the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="use the seeds 0 to N - 1 (default 5)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], metavar="NAME", help="only these rows")
    parser.add_argument("--epochs", type=int, help="as many for every row")
    parser.add_argument("--images", type=int, default=55_000, help="to train on (default all 55,000)")
    parser.add_argument("--choose", action="store_true", help="print validation accuracies, epoch by epoch")
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--run", nargs=4, metavar=("PEER", "RECIPE", "EPOCHS", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        peer, recipe, epochs, seed = args.run
        return train(peer, recipe == "plain", int(epochs), int(seed), Data(args.root, args.images), args.choose)
    if args.choose:
        return choose(args)
    rows = {name: ROWS[name] for name in args.rows if find_spec(ROWS[name][0])}
    found = measure(rows, args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    return None


def measure(rows: dict[str, tuple[str, str, int]], args: argparse.Namespace) -> dict[str, Any]:
    """Runs all rows in turn, seed by seed, and prints a table."""
    found: dict[str, Any] = {name: {"seconds": [], "accuracy": []} for name in rows}
    for seed in range(args.seeds):
        for name, (peer, recipe, epochs) in rows.items():
            seconds, accuracy = run(peer, recipe, args.epochs or epochs, seed, args)
            found[name]["seconds"].append(seconds)
            found[name]["accuracy"].append(accuracy)
    print(f"{'':32}epochs   seconds   / ours   test accuracy      90% reached by")
    for name, (_, _, epochs) in rows.items():
        seconds, accuracies = found[name]["seconds"], found[name]["accuracy"]
        ratio = statistics.median(s / o for s, o in zip(seconds, found[next(iter(rows))]["seconds"], strict=True))
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(
            f"{name:32}{args.epochs or epochs:6}{statistics.median(seconds):10.1f}{ratio:9.2f}"
            f"   {100 * statistics.mean(accuracies):.2f} ± {100 * spread:.2f}%"
            f"   {sum(accuracy >= 0.9 for accuracy in accuracies):3} of {len(accuracies)}"
        )
    return found


def run(peer: str, recipe: str, epochs: int, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Runs one process and returns the seconds until the network was saved, and its test accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        if peer == "fmnist":
            words = [*RECIPES[recipe], "--trainer.max_epochs", epochs, "--seed_everything", seed]
            seconds, _ = timed("-m", "fmnist", "fit", *words, *_places(args, folder))
            timed("-m", "fmnist", "test", "--trainer.default_root_dir", folder)
            (metrics,) = Path(folder).rglob("metrics.json")
            return seconds, json.loads(metrics.read_text())["acc"]
        words = [__file__, "--root", str(Path(args.root).resolve()), "--images", str(args.images)]
        words += ["--run", peer, recipe, str(epochs), str(seed)]
        start = time.perf_counter()
        with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
            assert process.stdout is not None
            lines = iter(process.stdout)
            assert next(line for line in lines if line == "saved\n"), f"{peer} failed"
            seconds = time.perf_counter() - start
            return seconds, float(next(lines))


def _places(args: argparse.Namespace, folder: str) -> list[Any]:
    few = ["--trainer.limit_train_batches", args.images / 55_000] if args.images < 55_000 else []
    return ["--data.source.root", Path(args.root).resolve(), "--trainer.default_root_dir", folder, *few]


def timed(*words: Any) -> tuple[float, str]:
    """Runs a Python process to its end and returns its seconds and its output."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def choose(args: argparse.Namespace) -> None:
    """Prints validation accuracies: of each number of epochs of our cosines, and after each epoch of the usual ones."""
    for recipe, epochs in product(RECIPES, (5, 6, 8, 10, 12, 14, 15, 18, 20, 22, 25)):
        with tempfile.TemporaryDirectory() as folder:
            words = [*RECIPES[recipe], "--trainer.max_epochs", epochs, "--seed_everything", 100]
            timed("-m", "fmnist", "fit", *words, *_places(args, folder))
            (history,) = Path(folder).rglob("metrics.csv")
            header, *_, last = history.read_text().splitlines()
            accuracy = dict(zip(header.split(","), last.split(","), strict=True))["val/acc"]
            print(f"{recipe}, {epochs} epochs: {float(accuracy):.4f}", flush=True)
    for name, (peer, recipe, _) in ROWS.items():
        if recipe == "usual" and find_spec(peer):
            words = [__file__, "--root", args.root, "--images", str(args.images), "--choose"]
            words += ["--run", peer, recipe, str(LIMIT), "100"]
            done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
            accuracies = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("val ")]
            print(f"{name}: {' '.join(accuracies)}", flush=True)


def train(peer: str, plain: bool, epochs: int, seed: int, data: Data, choosing: bool) -> None:
    """Trains a peer, saves it, says so, and prints its test accuracy."""
    os.environ["KERAS_BACKEND"] = "jax"
    trainers = {"torch": train_torch, "lightning": train_lightning, "keras": train_keras, "sklearn": train_sklearn}
    predict, save = trainers[peer](plain, epochs, seed, data, watch(data) if choosing else None)
    with tempfile.NamedTemporaryFile(suffix=".keras" if peer == "keras" else "") as file:
        save(file.name)
        print("saved", flush=True)
    images, labels = arrays(data, "test")
    print((predict(images) == labels).mean())


def arrays(data: Data, part: str = "train") -> tuple[Any, Any]:
    """Reads images, float32 (N, 784) from 0 to 1, and labels: of the part train, val or test.

    It takes nothing but NumPy, so that no peer waits for the libraries of another.
    """
    import numpy as np

    folder, prefix = Path(data.root) / "FashionMNIST" / "raw", "t10k" if part == "test" else "train"
    pixels = np.frombuffer((folder / f"{prefix}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((folder / f"{prefix}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    rows = np.arange(len(labels)) if part == "test" else split(labels, data.images)[part == "val"]
    return pixels.reshape(-1, 784)[rows].astype("float32") / 255, labels[rows].astype("int64")


def split(labels: Any, images: int) -> tuple[Any, Any]:
    """Returns the rows to train on, so many, and those to validate on, the first 500 of every class."""
    import numpy as np

    val = np.sort(np.concatenate([np.flatnonzero(labels == label)[:500] for label in range(10)]))
    return np.setdiff1d(np.arange(len(labels)), val)[:images], val


def watch(data: Data) -> Watch:
    """Makes a function that prints the validation accuracy of what it is given to predict with."""
    images, labels = arrays(data, "val")
    return lambda predict: print(f"val {(predict(images) == labels).mean():.4f}", flush=True)


def _schedule(steps: int) -> Callable[[int], float]:
    warmup = round(0.05 * steps)
    return lambda step: min(
        (step + 1) / (warmup + 1),
        (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup))) / 2,
    )


def _torch_parts(plain: bool, epochs: int, seed: int, data: Data) -> tuple[Any, Any, Any, Any, Any]:
    """Makes what both torch peers share: network, loader, loss, optimizer, schedule."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    torch.manual_seed(seed)
    pictures = datasets.FashionMNIST(data.root, train=True, transform=ToTensor())
    rows = split(pictures.targets.numpy(), data.images)[0].tolist()
    loader = DataLoader(Subset(pictures, rows), 128 if plain else 64, shuffle=True)
    hidden = (nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))
    if not plain:
        return model, loader, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters()), None
    settings: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 3e-4}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(len(loader) * epochs))
    return model, loader, nn.CrossEntropyLoss(label_smoothing=0.1), optimizer, schedule


def _torch_predict(model: Any) -> Callable[[Any], Any]:
    import torch

    return lambda images: model(torch.from_numpy(images)).argmax(1).numpy()


def train_torch(plain: bool, epochs: int, seed: int, data: Data, seen: Watch | None) -> tuple[Any, Any]:
    """Trains in a plain loop."""
    import torch

    model, loader, measure_loss, optimizer, schedule = _torch_parts(plain, epochs, seed, data)
    for _ in range(epochs):
        for images, labels in loader:
            loss = measure_loss(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
        if seen:
            seen(_torch_predict(model))
    return _torch_predict(model), lambda path: torch.save(model.state_dict(), path)


def train_lightning(plain: bool, epochs: int, seed: int, data: Data, seen: Watch | None) -> tuple[Any, Any]:
    """Trains a textbook LightningModule."""
    from lightning.pytorch import LightningModule, Trainer
    from torchmetrics.classification import MulticlassAccuracy

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # tips, and what it defaults to
    warnings.simplefilter("ignore")
    network, loader, measure_loss, optimizer, schedule = _torch_parts(plain, epochs, seed, data)

    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network
            self.accuracy = MulticlassAccuracy(10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.model(batch[0])
            loss = measure_loss(logits, batch[1])
            self.accuracy(logits, batch[1])
            self.log("train_loss", loss)
            self.log("train_acc", self.accuracy)
            return loss

        def on_train_epoch_end(self) -> None:
            if seen:
                seen(_torch_predict(self.model))

        def configure_optimizers(self) -> Any:
            if schedule is None:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    trainer = Trainer(max_epochs=epochs, devices=1, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Plain(), loader)
    return _torch_predict(network.cpu()), trainer.save_checkpoint


def train_keras(plain: bool, epochs: int, seed: int, data: Data, seen: Watch | None) -> tuple[Any, Any]:
    """Trains with Keras 3 on JAX."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    images, labels = arrays(data)
    batch = 128 if plain else 32
    steps = epochs * math.ceil(len(labels) / batch)
    penalty = keras.regularizers.L2(1.5e-4) if plain else None  # its gradient is 3e-4 of the weight
    hidden = [keras.layers.Dense(512, activation="relu", kernel_regularizer=penalty) for _ in range(2)]
    model = keras.Sequential([*hidden, keras.layers.Dense(10, kernel_regularizer=penalty)])
    optimizer: Any = "adam"
    if plain:
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=0.1, warmup_steps=round(0.05 * steps))
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1 if plain else 0.0)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])

    def predict(images: Any) -> Any:
        return model.predict(images, batch_size=1000, verbose=0).argmax(1)

    after = [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen(predict))] if seen else []
    model.fit(images, np.eye(10, dtype="float32")[labels], batch, epochs, callbacks=after, verbose=0)
    return predict, model.save


def train_sklearn(plain: bool, epochs: int, seed: int, data: Data, seen: Watch | None) -> tuple[Any, Any]:
    """Trains scikit-learn's MLPClassifier."""
    import pickle

    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # that it has not converged
    settings: dict[str, Any] = {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.9, "batch_size": 128}
    settings["alpha"] = 3e-4 * 128  # divided by the batch in there
    options: dict[str, Any] = {"random_state": seed, **(settings if plain else {})}
    images, labels = arrays(data)
    model = MLPClassifier((512, 512), max_iter=1 if seen else epochs, warm_start=bool(seen), **options)
    for _ in range(epochs if seen else 1):
        model.fit(images, labels)
        if seen:
            seen(model.predict)
    return model.predict, lambda path: Path(path).write_bytes(pickle.dumps(model))


if __name__ == "__main__":
    main()
