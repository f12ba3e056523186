"""Fetch the data, verify it, and say what is in it."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from fmnist.atomic import atomic_path
from fmnist.datamodule import FashionMNISTDataModule

SAMPLES = 12  # images of each class in a picture


def prepare(data: FashionMNISTDataModule, show: str | None = None) -> None:
    """Fetches and verifies the data, and describes it.

    Args:
        data: What to prepare.
        show: Draw some training images of every class, with its name, into this PNG file.
    """
    data.prepare_data()
    data.setup()
    assert data.train_set is not None
    assert data.val_set is not None
    assert data.test_set is not None
    parts = {"training": data.train_set, "validation": data.val_set, "test": data.test_set}
    for name, part in parts.items():
        print(f"{name:12}{len(part):7,} images  {str(part.images.dtype)[6:]} {tuple(part.images.shape)}")
    print(f"\n{'class':16}" + "".join(f"{name:>12}" for name in parts))
    for label, class_name in enumerate(data.class_names):
        counts = (int((part.labels == label).sum()) for part in parts.values())
        print(f"{label:2} {class_name:13}" + "".join(f"{count:12,}" for count in counts))
    print(f"\ndigest of the split: {data.split_digest}")
    train = torch.cat([data.train_set.images, data.val_set.images])
    within_train, within_test, across = count_duplicates(train, data.test_set.images)
    print(f"exact duplicates: {within_train} within train, {within_test} within test, {across} across the two")
    if show:
        Path(show).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(show)) as part_file:
            draw_samples(data.train_set.images, data.train_set.labels, data.class_names, part_file)
        print(f"written: {show}")


def count_duplicates(train: Tensor, test: Tensor) -> tuple[int, int, int]:
    """Counts images that are equal in every pixel.

    Args:
        train: uint8 (N, 1, 28, 28).
        test: uint8 (M, 1, 28, 28).

    Returns:
        Surplus copies within ``train``, within ``test``, and images of ``test`` that are in ``train``.
    """
    seen = Counter(image.tobytes() for image in train.numpy())
    asked = Counter(image.tobytes() for image in test.numpy())
    across = sum(count for image, count in asked.items() if image in seen)
    return len(train) - len(seen), len(test) - len(asked), across


def draw_samples(images: Tensor, labels: Tensor, class_names: list[str], path: Path) -> None:
    """Draws the first images of every class, a class a row.

    Args:
        images: uint8 (N, 1, 28, 28).
        labels: int64 (N,).
        class_names: Name of each label.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.62 * len(class_names)), layout="constrained")
    rows = figure.subplots(len(class_names), 1, squeeze=False)[:, 0]
    for label, (axes, name) in enumerate(zip(rows, class_names, strict=True)):
        first = images[labels == label][:SAMPLES, 0]
        axes.imshow(first.transpose(0, 1).flatten(1).numpy(), cmap="gray_r", vmin=0, vmax=255)  # (28, 28 * SAMPLES)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight")
