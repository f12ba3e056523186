"""How many of the labels that were changed on purpose ``audit`` puts first.

    python benchmarks/audit.py [--images 60000 1000] [--epochs 10] [--root data] [--picture FILE.png] [options of fit]

Of the first N training images of Fashion-MNIST 2% are given another label, drawn at random. Five networks of
``configs/mlp.yaml`` are trained, each without a fifth of the images, and ``audit`` orders all labels. Printed is
the share of the changed ones among as many of the first. With ``--picture`` the same is done with the labels as
they are published, for the largest N, and the twenty least probable ones are drawn. Nothing is chosen by this.
"""

import argparse
import contextlib
import csv
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fmnist import FashionMNIST
from fmnist.__main__ import main as fmnist
from fmnist.runs.tables import percent

ROOT = Path(__file__).parent.parent
FOLDS, SHARE, DRAWN = 5, 0.02, (4, 5)
MISTAKES = {16691, 22264, 31014, 40187}  # training images whose label is wrong to our eyes
SMALL = 5000  # images, below which batches have 64 of them, and the learning rate is as much smaller
FEW = ("--data.batch_size=64", "--model.optimizer.lr=0.05")


def main() -> None:
    """Plants, trains, audits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[60_000, 1000], metavar="N")
    parser.add_argument("--epochs", type=int, default=10, help="of a training; below 5,000 images four times as many")
    parser.add_argument("--seed", type=int, default=0, help="of the changed labels")
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the least probable labels as published")
    args, options = parser.parse_known_args()
    sys.path.append(str(ROOT))  # for examples.npz
    images, labels = (part.numpy() for part in FashionMNIST(args.root).load(train=True))
    lines = ["| images | labels changed | altered labels among the top 2% | accuracy (against the altered labels) |"]
    lines.append("| ---: | ---: | ---: | ---: |")
    for count in args.images:
        wrong, changed = plant(labels[:count], args.seed)
        rows, accuracy = audit(images[:count], wrong, args.epochs, options)
        found = sum(changed[int(row["index"])] for row in rows[: changed.sum()])
        lines.append(f"| {count:,} | {changed.sum():,} | {found / changed.sum():.1%} | {accuracy} |")
    if args.picture:
        count = max(args.images)
        rows, accuracy = audit(images[:count], labels[:count], args.epochs, options)
        draw(images, rows, args.picture)
        lines.append(f"| {count:,} | 0 | | {accuracy} |")
    print("\n" + "\n".join(lines))


def plant(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives 2% of the labels another value; returns all of them, and which have changed, both (N,)."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(labels))[: round(SHARE * len(labels))]
    wrong, changed = labels.copy(), np.zeros(len(labels), dtype=bool)
    wrong[chosen] = (labels[chosen] + random.integers(1, 10, len(chosen))) % 10
    changed[chosen] = True
    return wrong, changed


def audit(images: np.ndarray, labels: np.ndarray, epochs: int, options: list[str]) -> tuple[list[dict[str, str]], str]:
    """Trains the folds and audits them; returns the rows of ``labels.csv``, and the accuracy as it is printed."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", x_train=images[:, 0], y_train=labels)
        source = ["--data.source=examples.npz.Arrays", f"--data.source.train={folder}/images.npz"]
        few = len(labels) < SMALL
        words = ["--config", str(ROOT / "configs/mlp.yaml"), *source, "--trainer.enable_progress_bar=false"]
        words += [f"--trainer.max_epochs={epochs * (4 if few else 1)}", *(FEW if few else ()), *options]
        for fold in range(1, FOLDS + 1):
            start = time.monotonic()
            run("fit", *words, f"--data.fold={fold}/{FOLDS}", f"--trainer.default_root_dir={folder}")
            print(f"{len(labels):,} images, fold {fold}: {time.monotonic() - start:.0f} s", flush=True)
        said = run("audit", folder, source[0])
        print(said.replace(folder, "FOLDER"), flush=True)
        with (Path(folder) / "labels.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file)), said.partition("acc ")[2].partition(" over")[0]


def run(*words: str) -> str:
    """Runs a command in this process; returns what it has printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = fmnist(words)
    assert code == 0, said.getvalue()
    return said.getvalue()


def draw(images: np.ndarray, rows: list[dict[str, str]], path: Path) -> None:
    """Draws the first twenty, the least probable label first; green frames are around the ``MISTAKES``."""
    figure = Figure(figsize=(7.5, 7.7))
    figure.subplots_adjust(left=0.03, right=0.97, bottom=0.09, top=0.98, wspace=0.18, hspace=0.42)
    for axes, row in zip(figure.subplots(*DRAWN).flat, rows, strict=False):
        axes.imshow(images[int(row["index"]), 0], cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        wrong = int(row["index"]) in MISTAKES
        axes.spines[:].set(color="tab:green", linewidth=3 if wrong else 0)
        share = percent(float(row["p(predicted)"]), 0)
        axes.text(-0.5, 31, f"label {row['given']}", fontsize=8, weight="bold")
        axes.text(-0.5, 35, f"model {row['predicted']}, {share}", fontsize=8)
        axes.text(-0.5, 38.6, f"image {row['index']}", fontsize=7, color="gray")
    figure.savefig(path, format="png", dpi=180)


if __name__ == "__main__":
    main()
