"""A trained model that classifies pictures: ``load("best.ckpt").classify("shoe.jpg")``."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmnist.data.photos import Conversion, Converted, PictureError, convert
from fmnist.data.read import apply, read_picture
from fmnist.errors import check
from fmnist.files import expand
from fmnist.model.network import NetworkFactory
from fmnist.model.trained import Output, TrainedModel
from fmnist.model.typicality import UNLIKE
from fmnist.runs.checkpoint import check_members, load_members, read_checkpoint
from fmnist.runs.folder import find_checkpoints
from fmnist.runs.tables import percent

UNKNOWN_NOTE, UNLIKE_NOTE = "typicality not known", "unlike the training images"
CHECKED = 1000  # images on which another way to compute a model is compared with it
Transform = Callable[[Image.Image], Image.Image]
ACCEPTED = (
    "a path, the bytes of a file, an open file, a PIL image, or an array or tensor of uint8, or of floats from 0 to 1"
)


class Prediction(NamedTuple):
    """The prediction for a picture."""

    name: str | None
    """The most probable class; None for a picture that is nothing but background."""
    probability: float | None
    """Its calibrated probability, from 0 to 1."""
    probabilities: dict[str, float]
    """The probability of every class."""
    note: str
    """What was assumed when the picture was converted, and whether it is unlike the training images."""
    typicality: float | None = None
    """Share of the validation images that are less typical than this one, from 0 to 1; None if it is not available."""

    def __str__(self) -> str:
        """Writes the three most probable classes, and the note."""
        best = sorted(self.probabilities.items(), key=lambda item: -item[1])[:3]
        classes = ", ".join(f"{name} {percent(probability)}" for name, probability in best)
        return f"{classes or 'no class'}{f' ({self.note})' if self.note else ''}"


def load(
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    device: str | torch.device = "cpu",
    network: NetworkFactory | None = None,
    transform: Transform | None = None,
) -> "Predictor":
    """Loads a trained model; nothing in the file is executed.

    Args:
        checkpoint: A checkpoint, such as ``lightning_logs/version_0/checkpoints/best.ckpt``, or a run, such as
            ``version_0``: then its best. Several, or a folder of runs such as a sweep's, are an ensemble. Nothing is
            the best of the newest run here; where there is none, a small network that comes with the package.
        device: Where to compute.
        network: The class or function that made the network, where that is not one of the package.
        transform: The function that was applied to each PIL image in training, if there was one.

    Raises:
        UserError: The file is not a checkpoint of fmnist, or several do not fit together.
        UntrustedCodeError: Its network is not one of the package, and has not been given.
        OSError: The file cannot be read.
    """
    specs = [checkpoint] if isinstance(checkpoint, str | Path) else checkpoint
    check(specs is None or len(specs) > 0, "load() was given an empty list: name a checkpoint or a run")
    paths = find_checkpoints([str(one) for one in specs or ()], Path(), or_bundled=True)
    members = [(path, read_checkpoint(path, network)) for path in paths]
    if len(members) > 1:
        check_members(members, same_split=False)
    return Predictor(load_members(members, network).to(device), members[0][1]["conversion"], transform)


class Predictor:
    """Classifies pictures. It keeps no state, so several threads may share one.

    Args:
        model: A trained model, on the device where to compute.
        conversion: How pictures were converted in training, from a checkpoint.
        transform: The function that was applied to each PIL image first, if ``conversion`` names one.

    Raises:
        UserError: ``conversion`` is unknown.
    """

    def __init__(
        self, model: TrainedModel, conversion: dict[str, str | None], transform: Transform | None = None
    ) -> None:
        self.model = model.eval()
        self.class_names = model.class_names
        self.image_shape = model.image_shape
        self.description = conversion
        self.conversion = cast(Conversion, conversion["name"])
        self.transform = transform
        known = self.conversion in get_args(Conversion)
        check(known, f"the checkpoint needs the conversion {self.conversion!r}, which this version does not have")

    def classify(self, pictures: Any) -> Prediction | list[Prediction]:
        """Classifies one picture or several.

        Args:
            pictures: A path, the bytes of a file, an open file, a PIL image, what ``convert`` returned, or an array or
                tensor: uint8, or floats from 0 to 1; of shape (C, H, W), (H, W) for grey or, for several, (N, C, H, W).
                Or a list of any of these. Files and PIL images are converted as the data set was; arrays are not.

        Returns:
            One prediction for one picture; a list for a list or a batch.

        Raises:
            ValueError: A picture cannot be read, or has the wrong type, shape or range.
        """
        if getattr(pictures, "ndim", 0) == 4:
            pictures = [*self._check_array(pictures)]
        several = isinstance(pictures, list)
        converted = [self._convert_named(picture) for picture in (pictures if several else [pictures])]
        if not converted:
            return []
        output = self.predict(torch.stack([one.image for one in converted]))
        predictions = [self._describe(one, *row) for one, row in zip(converted, output.rows(), strict=True)]
        return predictions if several else predictions[0]

    def _describe(self, converted: Converted, row: list[float], label: int, typicality: float | None) -> Prediction:
        if converted.empty:
            return Prediction(None, None, {}, converted.note)
        note = describe_typicality(converted.note, typicality)
        probabilities = dict(zip(self.class_names, row, strict=True))
        return Prediction(self.class_names[label], row[label], probabilities, note, typicality)

    def predict(self, images: Tensor) -> Output:
        """Computes the same as ``TrainedModel.predict`` for any number of images, uint8 (N, C, H, W), on the CPU."""
        return self.model.predict_in_batches(images)

    def convert(self, picture: Any) -> Converted:
        """Converts a single picture, of any kind that ``classify`` takes, as in training.

        Raises:
            PictureError: The file is not a picture, is damaged, or is too large.
            ValueError: It is nothing that could be a picture.
        """
        if isinstance(picture, Converted):
            return picture
        if isinstance(picture, bytes | bytearray):
            picture = io.BytesIO(picture)
        if isinstance(picture, str | Path) or hasattr(picture, "read"):
            self.check_transform()
            path = expand(picture) if isinstance(picture, str | Path) else picture
            return read_picture(path, self.transform, self.conversion, self.image_shape)
        if isinstance(picture, Image.Image):
            self.check_transform()
            try:
                changed = apply(self.transform, picture) if self.transform else picture
                return convert(changed, self.conversion, self.image_shape)
            except OSError as error:
                raise ValueError(f"the picture is damaged ({error})") from error
        image = self._check_array(picture)
        if image.ndim != 3:
            raise ValueError("a list holds single pictures: give a batch by itself")
        return Converted(image, "")

    def _convert_named(self, picture: Any) -> Converted:
        """Converts a picture; what is wrong with it begins with its name."""
        try:
            return self.convert(picture)
        except PictureError as error:
            name = picture if isinstance(picture, str | Path) else getattr(picture, "name", "the picture")
            raise ValueError(f"{name} {error}") from error

    def _check_array(self, array: Any) -> Tensor:
        """Returns an array or tensor as uint8 (C, H, W) or (N, C, H, W)."""
        channels, *sides = self.image_shape
        shapes = [*[tuple(sides)] * (channels == 1), self.image_shape]
        batch = f"(N, {', '.join(map(str, self.image_shape))})"
        accepted = f"{ACCEPTED}, of shape {', '.join(map(str, shapes))} or {batch}"
        if not isinstance(array, Tensor | np.ndarray):
            raise ValueError(f"a {type(array).__name__} is not a picture: give {accepted}")
        if isinstance(array, np.ndarray) and array.dtype.kind not in "uif":
            raise ValueError(f"a picture cannot be {array.dtype}: give {accepted}")
        if isinstance(array, np.ndarray):
            array = torch.tensor(array.astype(array.dtype.newbyteorder("="), order="C"))
        images: Tensor = array.detach().cpu()
        if channels == 1 and images.shape == tuple(sides):
            images = images.unsqueeze(0)
        if images.ndim not in (3, 4) or images.shape[-3:] != self.image_shape:
            raise ValueError(f"a picture cannot have the shape {tuple(images.shape)}: give {accepted}")
        if images.is_floating_point():
            if not bool(((images >= 0) & (images <= 1)).all()):
                raise ValueError(f"floats must be from 0 to 1: give {accepted}")
            return (images * 255).round().to(torch.uint8)
        if images.dtype != torch.uint8:
            raise ValueError(f"a picture cannot be {images.dtype}: give {accepted}")
        return images

    def check_transform(self) -> None:
        """Raises a ``UserError`` if training had a transform that was not given."""
        missing = self.description.get("transform") if self.transform is None else None
        check(
            not missing,
            f"in training each picture went through the transform {missing}: if you trust that code, give it, "
            f"in Python as load(checkpoint, transform=...), on the command line with --transform {missing}",
        )


def describe_typicality(note: str, typicality: float | None) -> str:
    """Adds to a note that a picture is unlike the training images, or that this is not known."""
    added = UNKNOWN_NOTE if typicality is None else UNLIKE_NOTE if typicality < UNLIKE else ""
    return "; ".join(filter(None, (note, added)))


def compare(predictor: Predictor, compute: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Compares another implementation of a model with the model, on made-up images from empty to full.

    Args:
        predictor: The model.
        compute: Maps images, uint8 (N, C, H, W), to probabilities, (N, num_classes).

    Returns:
        The largest difference between two probabilities, and the share of images with the same class.
    """
    random = np.random.default_rng(0)
    strength = random.random(CHECKED)
    shape = predictor.image_shape
    images = np.stack([(random.random(shape) ** (4 * one) * one * 255).astype(np.uint8) for one in strength])
    found, expected = compute(images), predictor.predict(torch.from_numpy(images)).probabilities.numpy()
    return float(np.abs(found - expected).max()), float((found.argmax(1) == expected.argmax(1)).mean())
