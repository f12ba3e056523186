"""Settings of the data that make no sense, and data on which figures cannot be trusted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fmnist.data.images import Images
from fmnist.data.sources.source import Source
from fmnist.data.split import digest_images, read_fold
from fmnist.errors import check

FEW = 5  # validation images of a class


def check_settings(data: Any) -> None:
    """Raises a ``UserError`` for a setting of a data module that makes no sense."""
    for name, least in {"val_size": 0, "batch_size": 1, "shift": 0, "num_workers": 0, "split_seed": 0}.items():
        value = getattr(data, name)
        check(value >= least, f"data.{name} is {value}: it must be at least {least}")
    if data.fold is not None:
        read_fold(data.fold)


def check_batch_size(batch_size: int, world_size: int) -> None:
    """Raises a ``UserError`` if ``world_size`` devices cannot share a batch equally."""
    near = max(1, round(batch_size / world_size)) * world_size
    what = f"data.batch_size {batch_size} cannot be shared equally by {world_size} devices"
    check(batch_size % world_size == 0, f"{what}: give --data.batch_size {near}")


def find_problems(data: Any, saved: dict[str, Any], stage: str) -> list[str]:
    """Returns a line for each reason not to trust the figures of a network on the images of a data module.

    Args:
        data: Data module on whose validation or test images the network is evaluated.
        saved: State of the data module in its training: ``split`` and ``trained_on``; empty for a new training.
        stage: ``test``, ``validate`` or ``fit``.
    """
    images: Images | None = data.test_set if stage == "test" else data.val_set
    lines = []
    before, seen = saved.get("split"), saved.get("trained_on")
    if before and data.split_digest and before != data.split_digest:
        lines.append(f"note: the split of the data is {data.split_digest}, in the training it was {before}")
    digests = images.digests if images else None
    if isinstance(seen, Tensor) and digests is not None and (count := int(torch.isin(digests, seen).sum())):
        part = "test" if stage == "test" else "validation"
        lines.append(f"warning: {count:,} of {len(digests):,} {part} images were in the training set: too optimistic")
    return lines + find_small_classes(images.labels, data.class_names) if images and stage == "fit" else lines


def find_small_classes(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Returns a warning if classes have fewer than 5 of the validation images, whose labels are int64 (N,)."""
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    few = [f"{name} {count}" for name, count in zip(class_names, counts, strict=True) if count < FEW]
    some = ", ".join(few[:5]) + (f" and {len(few) - 5:,} more" if len(few) > 5 else "")
    line = f"warning: few validation images of some classes ({some}): the best epoch and the probabilities"
    return [f"{line} are left to chance: give more pictures or a larger --data.val_size"] if few else []


def find_two_labels(source: Source, class_map: dict[str, str]) -> list[str]:
    """Returns the pictures that are equal in every pixel and differ in their labels, one line for each picture.

    Args:
        source: Where they come from; training and test part are compared.
        class_map: New names for classes.
    """
    names = [class_map.get(name, name) for name in source.class_names]
    groups = dict[int, dict[str, str]]()  # by the pixels: the first picture of each label
    for train in (True, False):
        images, labels = source.load(train)
        paths = source.paths(train) or [f"{'training' if train else 'test'} image {n}" for n in range(len(labels))]
        for digest, label, path in zip(digest_images(images).tolist(), labels.tolist(), paths, strict=True):
            groups.setdefault(digest, {}).setdefault(names[label], path)
    several = [group for group in groups.values() if len(group) > 1]
    return [", ".join(f"{path} ({name})" for name, path in group.items()) for group in several]
