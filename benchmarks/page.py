"""The demo page in a real browser, beside the model that it was made from.

    python benchmarks/page.py [--checkpoint FILE] [--images 10000] [--pictures 300] [--root data]

Prints the size of the file, the largest difference of a probability and the share of equal classes for test images
given as pixels, and as PNG files through the page's conversion; then for pictures as people have them, test images
enlarged ten times, in colours on plain backgrounds, as PNG and as JPEG; and the milliseconds of a picture.
"""

import argparse
import base64
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from backgrounds import BLACK, BLUE, GREEN, PAIRS, RED, WHITE, paint

from fmnist import FashionMNIST, load
from fmnist.inference.page import to_page
from fmnist.inference.predictor import Predictor
from tests.browser import open_browser

GIVEN = """(text) => { const all = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), found = [];
for (let i = 0; i < all.length; i += 784) found.push(Array.from(fmnist.predict(all.subarray(i, i + 784)).shares));
return found; }"""
READ = """async (texts) => { const found = [];
for (const text of texts) {
  const { rgba } = await fmnist.decode(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
  const { note, pixels } = fmnist.convert(rgba), { shares } = fmnist.predict(pixels);
  found.push({ note, pixels: Array.from(pixels), shares: Array.from(shares) });
} return found; }"""
TIMED = """(text) => { const one = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), times = [];
for (let i = 0; i < 60; i++) { const start = performance.now(); for (let j = 0; j < 10; j++) fmnist.predict(one);
times.push((performance.now() - start) / 10); } return times.sort((a, b) => a - b)[30]; }"""


def main() -> None:
    """Opens the page and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="lightning_logs/version_0/checkpoints/best.ckpt")
    parser.add_argument("--images", type=int, default=10_000, help="test images given as pixels")
    parser.add_argument("--pictures", type=int, default=300, help="pictures of each kind")
    parser.add_argument("--root", default="data", help="folder of the data set")
    args = parser.parse_args()
    predictor = load(args.checkpoint)
    images = FashionMNIST(args.root).load(train=False)[0]
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as browser:
        file = Path(folder) / "demo.html"
        file.write_text(to_page(predictor, {"version": "of this folder"}), encoding="utf-8")
        page = browser.new_page()
        page.goto(file.as_uri())
        print(f"size of the file: {file.stat().st_size / 1e6:.1f} MB")
        print(
            f"one picture of 28 x 28 (median of 60): {page.evaluate(TIMED, encode(images[0].numpy().tobytes())):.2f} ms"
        )
        shares = torch.tensor(page.evaluate(GIVEN, encode(images[: args.images].numpy().tobytes())))
        print(compare("pixels", shares, predictor.predict(images[: args.images]).probabilities))
        for kind, pictures in kinds(images[: args.pictures]):
            print(read(page, predictor, kind, pictures))


def kinds(images: torch.Tensor) -> Iterator[tuple[str, list[bytes]]]:
    """Yields kinds of files, and some of each."""
    arrays = [image[0].numpy() for image in images]
    yield "PNG of 28 x 28", [encoded(Image.fromarray(array), "PNG") for array in arrays]
    yield "PNG, black on white", [encoded(paint(array, BLACK, WHITE), "PNG") for array in arrays]
    yield "PNG, red on green", [encoded(paint(array, RED, GREEN), "PNG") for array in arrays]
    yield "PNG, blue on transparent", [encoded(cut_out(array), "PNG") for array in arrays]
    yield f"PNG, {PAIRS[15][0]}", [encoded(paint(array, *PAIRS[15][1:]), "PNG") for array in arrays]
    yield "JPEG, black on white", [encoded(paint(array, BLACK, WHITE), "JPEG") for array in arrays]
    yield "JPEG, white on grey 128", [encoded(paint(array, WHITE, (128,) * 3), "JPEG") for array in arrays]


def cut_out(array: np.ndarray) -> Image.Image:
    """Returns a thing on a transparent ground."""
    picture = Image.new("RGBA", (280, 280), (*BLUE, 0))
    picture.putalpha(
        Image.fromarray(array).resize((280, 280), Image.Resampling.BICUBIC).point(lambda v: 255 * (v > 20))
    )
    return picture


def read(page: Any, predictor: Predictor, kind: str, files: list[bytes]) -> str:
    """Lets the page and the package read the same files, and compares."""
    found = page.evaluate(READ, [encode(file) for file in files])
    converted = [predictor.convert(file) for file in files]
    pixels = (
        torch.tensor([row["pixels"] for row in found]) - torch.stack([one.image for one in converted]).flatten(1).int()
    )
    notes = sum(row["note"] == one.note for row, one in zip(found, converted, strict=True)) / len(files)
    line = compare(
        kind,
        torch.tensor([row["shares"] for row in found]),
        predictor.predict(torch.stack([one.image for one in converted])).probabilities,
    )
    same = (pixels == 0).all(1).float().mean()
    return f"{line}, same pixels for {same:.1%} (largest difference {pixels.abs().max()}), same note for {notes:.1%}"


def compare(kind: str, found: torch.Tensor, expected: torch.Tensor) -> str:
    """Describes how far probabilities, (N, num_classes), are from those of the model."""
    same = (found.argmax(1) == expected.argmax(1)).float().mean()
    return (
        f"{kind}: same class for {same:.2%} of {len(found):,}, largest difference {(found - expected).abs().max():.1e}"
    )


def encoded(picture: Image.Image, kind: str) -> bytes:
    """Returns a picture as the content of a file."""
    file = io.BytesIO()
    picture.save(file, format=kind, quality=90)
    return file.getvalue()


def encode(content: bytes) -> str:
    """Writes bytes as base64."""
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    main()
