"""Fetch the data, verify it, and say what is in it."""

from collections import Counter

import torch
from torch import Tensor

from fmnist.cli.console import quiet, say
from fmnist.cli.parser import make_data_parser
from fmnist.cli.resolve import look
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.data.problems import find_small_classes, find_two_labels
from fmnist.data.split import digest_images
from fmnist.files import atomic_path, expand
from fmnist.plots import draw_samples
from fmnist.text import display_width, pad

EXAMPLE = "fmnist prepare --show samples.png"
SHOWN = 10  # pictures with two labels


def run(description: str, argv: list[str]) -> None:
    """Runs ``prepare``, with its one-line description and its arguments."""
    quiet()
    parser = make_data_parser("prepare", description, EXAMPLE)
    parser.add_argument("--show", type=str, help="Draw training images of every class into this PNG file.")
    made = parser.instantiate(parser.parse_given(look(argv)))
    prepare(made.data, made.show)


def prepare(data: FashionMNISTDataModule, show: str | None = None) -> None:
    """Prints what is in the data; ``show`` is a PNG file to draw some training images of every class into."""
    data.prepare_data()
    data.setup()
    assert data.train_set is not None
    assert data.val_set is not None
    assert data.test_set is not None
    parts = {"training": data.train_set, "validation": data.val_set, "test": data.test_set}
    for name, part in parts.items():
        print(f"{name:12}{len(part):7,} images  {str(part.images.dtype)[6:]} {tuple(part.images.shape)}")
    width = max(13, *map(display_width, data.class_names))
    print(f"\n{'class':{width + 3}}" + "".join(f"{name:>12}" for name in parts))
    for label, class_name in enumerate(data.class_names):
        counts = (int((part.labels == label).sum()) for part in parts.values())
        say(f"{label:2} {pad(class_name, width)}" + "".join(f"{count:12,}" for count in counts))
    statistics = data.pixel_statistics()
    mean, std = (f"{values:.4f}" if isinstance(values, float) else str(values) for values in statistics)
    print(f"\npixels of the training part, from 0 to 1: mean {mean}, std {std}")
    print(f"digest of the split: {data.split_digest}")
    train, val, test = (digest_images(part.images) for part in parts.values())
    within_train, within_test, across = count_duplicates(torch.cat([train, val]), test)
    print(f"exact duplicates: {within_train} within train, {within_test} within test, {across} across the two")
    for line in find_small_classes(data.val_set.labels, data.class_names) if data.is_validated else []:
        say(line)
    if several := find_two_labels(data.source, data.class_map):
        more = f"; and {len(several) - SHOWN:,} more" if len(several) > SHOWN else ""
        say(f"warning: {len(several):,} pictures have two labels: {'; '.join(several[:SHOWN])}{more}")
    if show:
        picture = expand(show)
        picture.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(picture) as part_file:
            complete = draw_samples(data.train_set.images, data.train_set.labels, data.class_names, part_file)
        print(f"written: {show}")
        if not complete:
            say("note: this machine has no font for some letters of the names: install one, such as Noto Sans CJK")


def count_duplicates(train: Tensor, test: Tensor) -> tuple[int, int, int]:
    """Counts images that are equal in every pixel.

    Args:
        train: A number for the content of each image, int64 (N,).
        test: The same for the images of the test part, int64 (M,).

    Returns:
        Surplus copies within ``train``, within ``test``, and images of ``test`` that are in ``train``.
    """
    seen, asked = Counter(train.tolist()), Counter(test.tolist())
    across = sum(count for image, count in asked.items() if image in seen)
    return len(train) - len(seen), len(test) - len(asked), across
