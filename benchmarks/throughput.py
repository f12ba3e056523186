"""Time of a training epoch: ``fit`` as a user runs it, and the same work in a plain PyTorch loop.

    python benchmarks/throughput.py [--batch_sizes 64 256 1024] [--repeats 5] [--json FILE]

Both train 784-512-512-10 with plain SGD on the 60,000 images. The plain loop indexes uint8 tensors
in memory and logs nothing: it is the floor. Epochs of the two take turns in one process, and their
medians are compared. Only the ratio is a claim; run it on an otherwise idle machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer

from fmnist import MLP, FashionMNISTDataModule, ImageClassifier
from fmnist.cli import _quiet

SGD = partial(torch.optim.SGD, lr=1e-3)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each (default 5)")
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    _quiet()
    rows = [measure(size, args.repeats, args.root) for size in args.batch_sizes]
    print(f"{torch.__version__}, {torch.get_num_threads()} threads; seconds per epoch, median of {args.repeats}")
    print("batch   plain loop      fit   fit / plain loop (min to max of the pairs)")
    for row in rows:
        print("{batch:5}{plain:13.3f}{fit:9.3f}{ratio:8.3f} ({low:.3f} to {high:.3f})".format(**row))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


def measure(batch: int, repeats: int, root: str) -> dict[str, float]:
    """Times both kinds of epoch in turn, after one of each to warm up."""
    from fmnist.sources import FashionMNIST

    data = FashionMNISTDataModule(FashionMNIST(root), val_size=0, batch_size=batch)
    data.prepare_data()
    data.setup("fit")
    plain = plain_loop(data.train_set.images, data.train_set.labels, batch)
    turns = Turns(plain)
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=repeats + 1, callbacks=[turns], enable_checkpointing=False, **options)
    trainer.fit(ImageClassifier(optimizer=SGD), data)
    pairs = list(zip(turns.fit[1:], turns.plain[1:], strict=True))
    ratios = [fit / floor for fit, floor in pairs]
    fit, floor = statistics.median(turns.fit[1:]), statistics.median(turns.plain[1:])
    return {"batch": batch, "plain": floor, "fit": fit, "ratio": fit / floor, "low": min(ratios), "high": max(ratios)}


class Turns(Callback):
    """Times each training epoch, and lets the plain loop have the next turn."""

    def __init__(self, plain: Callable[[], None]) -> None:
        self.run_plain = plain
        self.fit: list[float] = []
        self.plain: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it, and times the plain loop."""
        self.fit.append(time.perf_counter() - self.start)
        start = time.perf_counter()
        self.run_plain()
        self.plain.append(time.perf_counter() - start)


def plain_loop(images: torch.Tensor, labels: torch.Tensor, batch: int) -> Callable[[], None]:
    """Makes a function that trains one epoch without Lightning."""
    model = MLP()
    optimizer = SGD(model.parameters())

    def epoch() -> None:
        order = torch.randperm(len(images))
        for rows in order.split(batch):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


if __name__ == "__main__":
    main()
