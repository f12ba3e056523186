"""The data module: prepares, splits, batches and augments the images."""

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from fmnist.data.augment import random_flip, random_shift
from fmnist.data.images import Batch, Images, Rows, check_single_images, make_loader
from fmnist.data.problems import check_batch_size, check_settings
from fmnist.data.sampler import EpochSampler
from fmnist.data.saved import describe_data
from fmnist.data.sources.fashion_mnist import FashionMNIST
from fmnist.data.sources.source import Source, clean_name
from fmnist.data.split import digest_split, hold_out
from fmnist.errors import check, data_errors
from fmnist.limits import limit_batch
from fmnist.seeds import global_seed

Statistics = float | list[float]  # of the pixels: one number, or one for each channel
EVAL_BATCH_SIZE = 1000  # per process; evaluation keeps no gradients, so large batches are cheap


class FashionMNISTDataModule(LightningDataModule):
    """Training, validation and test images, as uint8.

    They are in memory, or in a file that is mapped into it. A batch is a pair of images, uint8 (B, C, H, W), and
    labels, int64 (B,).

    Args:
        source: Where the images come from.
        val_size: Training images held out for validation: a number, or a share below 1; 0 for none.
            Stratified: the same share of every class.
        batch_size: Images in a batch, across all devices; a last batch of one joins the batch before it.
        flip: Mirror training images left to right with probability 1/2.
        shift: Move training images by up to this many pixels along each axis.
        num_workers: Worker processes for data loading; 0 is fastest for images in memory.
        split_seed: Seed of the choice of validation images, independent of the training seed.
        class_map: New names for classes; classes that get the same name become one.
        fold: Fold to validate on, such as 2/5 for the second of five; it replaces ``val_size``.
    """

    def __init__(
        self,
        source: Source | None = None,
        val_size: int | float = 5000,
        batch_size: int = 64,
        flip: bool = False,
        shift: int = 0,
        num_workers: int = 0,
        split_seed: int = 0,
        class_map: dict[str, str] | None = None,
        fold: str | None = None,
    ) -> None:
        super().__init__()
        self.source = source or FashionMNIST()
        self.val_size = val_size
        self.batch_size = batch_size
        self.flip = flip
        self.shift = shift
        self.num_workers = num_workers
        self.split_seed = split_seed
        self.class_map = {clean_name(old): clean_name(new) for old, new in (class_map or {}).items()}
        self.fold = fold
        self.seed = 0
        self.epoch = 0
        self.split_digest = ""  # in checkpoints, to notice when the split is another one
        self.held_out: Tensor | None = None  # indices of the validation images in the source's training part
        self.train_set: Images | None = None
        self.val_set: Images | None = None
        self.test_set: Images | None = None
        self._read_by: Any = None  # the settings that the three sets were read by
        check_settings(self)

    @property
    def is_validated(self) -> bool:
        """Whether there are validation images."""
        return self.val_size > 0 or self.fold is not None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        with data_errors():
            known = self.source.class_names
        for name in self.class_map:
            check(name in known, f"data.class_map names {name!r}: the classes are {', '.join(known)}")
        return [*dict.fromkeys(self.class_map.get(name, name) for name in known)]

    @property
    def image_shape(self) -> list[int]:
        """Channels, height and width of the images."""
        return list(self.source.image_shape)

    def class_counts(self) -> Tensor:
        """Returns the number of training images of each class, int64 (C,)."""
        assert self.train_set is not None, "setup() comes first"
        return torch.bincount(self.train_set.labels, minlength=len(self.class_names))

    def pixel_statistics(self) -> tuple[Statistics, Statistics]:
        """Returns mean and std of the training pixels, from 0 to 1: those published, or those of each channel."""
        if self.source.pixels or self.train_set is None:
            return self.source.pixels or FashionMNIST.pixels
        mean, std = self.train_set.pixel_statistics()
        return (mean, std) if len(mean) > 1 else (mean[0], std[0])

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: the epoch to resume at, and a description of the data."""
        # Epochs that Lightning has started: after an epoch, the number of the next one, counted from 0.
        epoch = self.trainer.fit_loop.epoch_progress.current.ready if self.trainer else 0
        digests = self.train_set.digests if self.train_set else None
        return {"epoch": epoch, "trained_on": digests, "split": self.split_digest, "data": describe_data(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets the epoch: workers fetch the first batches before Lightning calls the sampler's ``set_epoch``."""
        self.epoch = state_dict["epoch"]

    @data_errors()
    def prepare_data(self) -> None:
        """Makes sure that the data is on disk."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Reads what ``stage`` needs: fit, validate, test, predict, or None for everything."""
        check_settings(self)  # Python code can have changed them since the data was read
        settings = (self.source, deepcopy(describe_data(self)))
        if settings != self._read_by:
            self.train_set = self.val_set = self.test_set = None
            self._read_by = settings
        if stage in ("fit", None):
            self.epoch = 0
            check_batch_size(self.batch_size, self.trainer.world_size if self.trainer else 1)
            seed = global_seed()  # the first process sends its own to the others: all must draw the same order
            self.seed = self.trainer.strategy.broadcast(seed) if self.trainer else seed
        if stage in ("fit", "validate", None) and self.train_set is None:
            self.train_set, self.val_set = self._split(self._load(train=True))
            self.split_digest = digest_split(self.train_set.labels, self.val_set.images)
        if stage in ("test", "predict", None) and self.test_set is None:
            self.test_set = self._load(train=False)
        model: Any = self.trainer.lightning_module if self.trainer else None
        if stage == "fit" and hasattr(model, "use_pixel_statistics"):
            model.use_pixel_statistics(*self.pixel_statistics())  # before weight averaging copies the model
            check_single_images(model.network, self.train_set, self.batch_size, model.trainer.world_size)

    @data_errors()
    def _load(self, train: bool) -> Images:
        return self._rename(*self.source.load(train), self.source.digests(train))

    def _rename(self, images: Tensor | Rows, labels: Tensor, digests: Tensor | None = None) -> Images:
        found, known = tuple(images.shape[1:]), tuple(self.source.image_shape)
        check(found == known, f"data.source has images of the shape {found}, but says that image_shape is {known}")
        names = self.class_names
        new = [names.index(self.class_map.get(name, name)) for name in self.source.class_names]
        return Images(images, torch.tensor(new)[labels], digests)  # all labels at once: old -> new[old]

    def _split(self, whole: Images) -> tuple[Images, Images]:
        own = self.source.load_val()
        check(self.fold is None or own is None, "data.fold: the source has a validation part: leave --data.fold out")
        if not self.is_validated or own is not None:
            empty = Images(whole.images[:0], whole.labels[:0])
            return whole, empty if own is None or self.val_size == 0 else self._rename(*own)
        by_content, part = self.source.by_content, self.fold or self.val_size
        train, self.held_out = hold_out(whole.images, whole.labels, whole.digests, by_content, part, self.split_seed)
        return whole.select(train), whole.select(self.held_out)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Loads the training images in a new order in each epoch."""
        return self._loader(self.train_set, train=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Loads the validation images in order; no loader if there are none."""
        return self._loader(self.val_set) if self.is_validated else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Loads the test images in order."""
        return self._loader(self.test_set)

    predict_dataloader = test_dataloader

    def _loader(self, images: Images | None, train: bool = False) -> DataLoader[Batch]:
        assert images is not None, "setup() comes before the loaders"
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        # The sampler shuffles, not the loader: its order depends only on (seed, epoch), so a resumed run repeats it.
        sampler = EpochSampler(len(images), shuffle=train, seed=self.seed, rank=rank, world_size=world_size)
        sampler.set_epoch(self.epoch)
        size = self.batch_size // world_size if train else limit_batch(EVAL_BATCH_SIZE, self.image_shape)
        return make_loader(images, size, sampler, self.num_workers)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training images, on the device."""
        if not (self.trainer and self.trainer.training):
            return batch  # only images when to_onnx exports
        images, labels = batch
        if self.flip:
            images = random_flip(images)
        if self.shift:
            images = random_shift(images, self.shift)
        return images, labels
