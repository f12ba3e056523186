"""Labelled images, in memory or in a file that is mapped into it, and batches of them."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from fmnist.errors import UserError

Batch = tuple[Tensor, Tensor]
PART = 1000  # images that are read at once where all of them are


class Rows:
    """Selected images of an array that may be larger than memory: indexing copies only what it selects.

    Args:
        array: uint8 (M, C, H, W), in memory or mapped into it.
        rows: Indices into it, int64 (N,).
    """

    dtype = torch.uint8

    def __init__(self, array: Tensor, rows: Tensor) -> None:
        self.array = array
        self.rows = rows
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """Returns one image, uint8 (C, H, W), or those of a slice, of indices or of a mask, uint8 (K, C, H, W)."""
        return self.array[self.rows[index]]

    def select(self, indices: Tensor) -> "Rows":
        """Returns the images of some indices, int64 (K,), without a copy."""
        return Rows(self.array, self.rows[indices])


class Images(Dataset[tuple[Tensor, int]]):
    """Images and their labels.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        digests: A number for the content of each image, int64 (N,), where the source knows them.
    """

    def __init__(self, images: Tensor | Rows, labels: Tensor, digests: Tensor | None = None) -> None:
        self.images = images
        self.labels = labels
        self.digests = digests

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """Returns number, type and shape."""
        return f"{len(self):,} images, uint8 {tuple(self.images.shape)}, with labels"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Returns one image, uint8 (C, H, W), and its label."""
        return self.images[index], int(self.labels[index])

    def select(self, indices: Tensor) -> "Images":
        """Returns some of the images, by their indices, int64 (M,)."""
        digests = None if self.digests is None else self.digests[indices]
        images = self.images.select(indices) if isinstance(self.images, Rows) else self.images[indices]
        return Images(images, self.labels[indices], digests)

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Returns mean and standard deviation of the pixels of each channel, from 0 to 1, to four digits."""
        # Counts of the 256 levels: exact, and no copy as floats, which would be four times as large.
        counts = torch.zeros(self.images.shape[1], 256, dtype=torch.double)
        for part in read_in_parts(self.images):
            counts += torch.stack([torch.bincount(pixels.flatten(), minlength=256) for pixels in part.unbind(1)])
        levels = torch.arange(256, dtype=torch.double) / 255
        mean = (counts * levels).sum(1) / counts.sum(1)
        std = ((counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1)).sqrt()
        return [round(one, 4) for one in mean.tolist()], [round(one, 4) or 1.0 for one in std.tolist()]


def read_in_parts(images: Tensor | Rows) -> Iterator[Tensor]:
    """Yields all images, uint8 (N, C, H, W), a thousand at once."""
    return (images[start : start + PART] for start in range(0, len(images), PART))


def make_loader(images: Images, batch_size: int, sampler: Sampler[int], num_workers: int) -> DataLoader[Batch]:
    """Returns a loader of batches: images, uint8 (B, C, H, W), and labels, int64 (B,), each by one index operation.

    Args:
        images: The data set.
        batch_size: Images in a batch of this process; a last batch of one joins the batch before it.
        sampler: The order of the images.
        num_workers: Processes that put batches together.
    """
    return _Loader(
        _Batches(images),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=tuple,  # __getitems__ has made a batch already
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # a loader without its own would draw from the global one
    )


def check_single_images(network: nn.Module, images: Images | None, batch_size: int, world_size: int) -> None:
    """Raises a ``UserError`` if training would be on single images, which this network cannot take."""
    if not images or min(batch_size, len(images)) // world_size > 1:
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            deepcopy(network).train()(images.images[:1])
    except ValueError as error:  # of batch normalization, which has nothing to compare a single image with
        what = f"data.batch_size {batch_size}: this network cannot be trained on single images"
        raise UserError(f"{what} ({error}): give 2 or more for each device") from error


class _Loader(DataLoader[Batch]):
    def __len__(self) -> int:
        return super().__len__() - self._joins

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        return self._join(batches) if self._joins else batches

    @property
    def _joins(self) -> bool:
        """Whether the last batch would be of one image, on which batch normalization fails."""
        size, total = self.batch_size or 1, len(self.sampler)  # type: ignore[arg-type]
        return 1 < size < total and total % size == 1

    def _join(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        last = next(batches)
        for batch in batches:
            if len(batch[1]) == 1:
                last = (torch.cat([last[0], batch[0]]), torch.cat([last[1], batch[1]]))
            else:
                yield last
                last = batch
        yield last


class _Batches(Dataset[Batch]):
    """Returns a whole batch at a time.

    PyTorch calls ``__getitems__`` with all indices of a batch if a data set has it: one index operation, instead of 64
    calls of ``__getitem__`` and a ``collate_fn`` that stacks the 64 images.
    """

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        rows, images = torch.tensor(indices), self.images.images
        found = images[rows] if isinstance(images, Rows) else images.index_select(0, rows)
        return found, self.images.labels.index_select(0, rows)
