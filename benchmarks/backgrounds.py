"""Accuracy on objects of many colours on backgrounds of many greys and colours.

    python benchmarks/backgrounds.py [--checkpoint FILE] [--images 400] [--root data]

Real test images, enlarged ten times, are painted in one colour on a plain background: where an image is
white, the object has its full colour, where it is black, that of the background, and between these in
proportion, as on paper. The table shows the accuracy on them after the conversion ``distance``, with that on
the images themselves above it, and below it that on the first 2,000, dark on white, as JPEG of quality 90.
"""

import argparse
import io

import numpy as np
import torch
from PIL import Image

from fmnist import FashionMNIST, load
from fmnist.data.photos import convert
from fmnist.inference.predictor import Predictor

Color = tuple[int, int, int]
BLACK, WHITE, RED, GREEN, BLUE, YELLOW = (
    (0,) * 3,
    (255,) * 3,
    (220, 20, 30),
    (20, 140, 40),
    (30, 60, 200),
    (250, 220, 40),
)
PAIRS: list[tuple[str, Color, Color]] = [
    *((f"black on grey {level}", BLACK, (level,) * 3) for level in (255, 224, 192, 160, 128, 96, 64)),
    *((f"white on grey {level}", WHITE, (level,) * 3) for level in (0, 32, 64, 96, 128, 160, 192, 224)),
    ("pale (150) on grey 128", (150,) * 3, (128,) * 3),
    ("grey 217 on white, 0.15 of its intensity", (217,) * 3, WHITE),
    ("grey 166 on grey 128, 0.15 of its intensity", (166,) * 3, (128,) * 3),
    ("red on green", RED, GREEN),
    ("green on red", GREEN, RED),
    ("red on grey 128", RED, (128,) * 3),
    ("blue on white", BLUE, WHITE),
    ("yellow on white", YELLOW, WHITE),
    ("yellow on blue", YELLOW, BLUE),
    ("blue on black", BLUE, BLACK),
]


def main() -> None:
    """Paints, converts, classifies and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="lightning_logs/version_0/checkpoints/best.ckpt")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--root", default="data")
    args = parser.parse_args()
    predictor = load(args.checkpoint)
    images, labels = FashionMNIST(args.root).load(train=False)
    some, actual = images[: args.images], labels[: args.images]
    print(f"the images themselves: {accuracy(predictor, some, actual):.1%}\n")
    print("| object and background | accuracy |\n| --- | ---: |")
    for name, thing, background in PAIRS:
        painted = [paint(image[0].numpy(), thing, background) for image in some]
        print(f"| {name} | {accuracy(predictor, convert_all(painted), actual):.1%} |")
    pages = [as_jpeg(paint(image[0].numpy(), BLACK, WHITE)) for image in images[:2000]]
    print(f"\nJPEG on white: {accuracy(predictor, convert_all(pages), labels[:2000]):.1%}", end="")
    print(f" ({accuracy(predictor, images[:2000], labels[:2000]):.1%} for the images themselves)")


def paint(image: np.ndarray, thing: Color, background: Color) -> Image.Image:
    """Paints an image, uint8 (28, 28), in a colour on a background, ten times as large."""
    share = np.asarray(Image.fromarray(image).resize((280, 280), Image.Resampling.BICUBIC))[..., None] / 255
    return Image.fromarray((share * np.array(thing) + (1 - share) * np.array(background)).round().astype(np.uint8))


def as_jpeg(picture: Image.Image) -> Image.Image:
    """Returns a picture as it comes back from a JPEG file."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    return Image.open(file)


def convert_all(pictures: list[Image.Image]) -> torch.Tensor:
    """Converts pictures to images, uint8 (N, 1, 28, 28)."""
    return torch.stack([convert(picture).image for picture in pictures])


def accuracy(predictor: Predictor, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the share of images, uint8 (N, 1, 28, 28), that get their label."""
    return (predictor.predict(images).probabilities.argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
