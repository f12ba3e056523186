"""What pictures cost: files per second, memory, and the exported file beside the model.

    python benchmarks/pictures.py [--ckpt_path PATH] [--root data] [--many 100000]

Writes test images as PNG files, classifies them with ``predict --images``, and compares: the classes
with those of ``predict`` on the same images; the peak memory for 1,000 and for ``--many`` files; the
accuracy on the images enlarged ten times, dark on white, as JPEG of quality 90. Then runs the exported
file in onnxruntime beside the model, image by image, on one thread.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fmnist import load
from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.inference.onnx import to_onnx
from fmnist.runs.folder import find_checkpoint

TIMED = """
import resource, sys, time
from fmnist.inference import stream as pictures
from fmnist.inference import predictor
from fmnist.inference import predictions
model = predictor.load(sys.argv[1])
for folder in sys.argv[2:]:
    start = time.perf_counter()
    paths = pictures.find_pictures([folder])
    predictions.write_rows(pictures.classify_files(model, paths), predictions.Path(f"{folder}.csv"))
    print(time.perf_counter() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", help="the checkpoint (default: the newest run's best)")
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--count", type=int, default=10_000, help="test images to use (default 10,000)")
    parser.add_argument("--many", type=int, default=100_000, help="files of the large folder (default 100,000)")
    args = parser.parse_args()
    checkpoint = find_checkpoint(args.ckpt_path, Path())
    test = VerifiedFashionMNIST(args.root, train=False)
    test.data, test.targets = test.data[: args.count], test.targets[: args.count]
    with tempfile.TemporaryDirectory() as folder:
        compare_pictures(Path(folder), checkpoint, test, args.many)
    compare_export(checkpoint, test)


def compare_pictures(folder: Path, checkpoint: Path, test: VerifiedFashionMNIST, many: int) -> None:
    """Prints classes, accuracy, speed and memory."""
    images, labels = test.data.numpy(), [test.classes[label] for label in test.targets]
    direct = [prediction.name for prediction in load(checkpoint).classify(test.data.unsqueeze(1))]  # type: ignore[union-attr]

    def accuracy(found: list[str]) -> float:
        return statistics.mean(name == label for name, label in zip(found, labels, strict=True))

    kinds = {"png": plain, "photos": photo}
    for name, convert in kinds.items():
        (folder / name).mkdir()
        for index, image in enumerate(images):
            convert(image, folder / name / f"{index:05}")
    times, _ = classify(checkpoint, *(folder / name for name in kinds))
    for name, seconds in zip(kinds, times, strict=True):
        with (folder / f"{name}.csv").open() as file:
            found = [row["predicted"] for row in csv.DictReader(file)]
        same = sum(one == other for one, other in zip(found, direct, strict=True))
        print(
            f"{name:7}{len(found):7,} files, same class for {same:,}, accuracy {accuracy(found):.2%} "
            f"(the images themselves {accuracy(direct):.2%}), {len(found) / seconds:,.0f} files/s after start"
        )
    memory = {}
    for count in {1000, many}:
        (folder / str(count)).mkdir()
        for index in range(count):
            os.link(folder / "png" / f"{index % len(images):05}.png", folder / str(count) / f"{index:07}.png")
        _, memory[count] = classify(checkpoint, folder / str(count))
    print(f"peak memory: {memory[1000]:.0f} MB for 1,000 files, {memory[many]:.0f} MB for {many:,}")


def plain(image: np.ndarray, path: Path) -> None:
    """Saves an image as it is."""
    Image.fromarray(image).save(path.with_suffix(".png"))


def photo(image: np.ndarray, path: Path) -> None:
    """Saves an image as a photograph would look."""
    ImageOps.invert(Image.fromarray(image)).resize((280, 280)).save(path.with_suffix(".jpg"), quality=90)


def classify(checkpoint: Path, *folders: Path) -> tuple[list[float], float]:
    """Classifies folders in a process of its own.

    Returns:
        The seconds for each folder, without imports, and the peak memory in MB.
    """
    command = [sys.executable, "-c", TIMED, str(checkpoint), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *seconds, kilobytes = done.stdout.split()
    return [float(number) for number in seconds], int(kilobytes) / 1024


def compare_export(checkpoint: Path, test: VerifiedFashionMNIST) -> None:
    """Prints differences and latencies of the exported file and the model."""
    import onnxruntime

    torch.set_num_threads(1)
    predictor = load(checkpoint)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = to_onnx(predictor, checkpoint)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    images = test.data.unsqueeze(1)
    expected, (found, *_) = (
        predictor.predict(images).probabilities.numpy(),
        session.run(None, {"images": images.numpy()}),
    )
    same = (expected.argmax(1) == found.argmax(1)).sum()
    print(f"onnx    {len(images):,} images, same class for {same:,}, difference {np.abs(expected - found).max():.1e}")

    def time_each(run: Callable[[int], object]) -> Iterator[float]:
        for index in range(min(1000, len(images))):
            start = time.perf_counter()
            run(index)
            yield time.perf_counter() - start

    turns: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
    for _ in range(5):
        for name, run in (
            ("torch", lambda i: predictor.predict(images[i : i + 1])),
            ("onnxruntime", lambda i: session.run(None, {"images": images[i : i + 1].numpy()})),
        ):
            turns[name].append(statistics.median(time_each(run)))
    torch_time, onnx_time = (1e6 * statistics.median(turns[name]) for name in turns)
    print(f"latency of one image on one thread: torch {torch_time:.0f} us, onnxruntime {onnx_time:.0f} us")


if __name__ == "__main__":
    main()
