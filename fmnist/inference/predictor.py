"""A trained model that classifies pictures: ``load("best.ckpt").classify("shoe.jpg")``."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmnist.data.photos import SIDE, Conversion, Converted, convert
from fmnist.data.read import apply, read_picture
from fmnist.errors import check
from fmnist.files import expand
from fmnist.model.trained import FIRST_CONVERSION, NetworkFactory, TrainedModel
from fmnist.model.typicality import UNLIKE
from fmnist.runs.checkpoint import check_members, load_members, read_checkpoint
from fmnist.runs.folder import find_checkpoints
from fmnist.runs.tables import percent

NOT_KNOWN, UNLIKE_NOTE = "typicality not known", "unlike the training images"
CHECKED = 1000  # images on which another way to compute a model is compared with it
Transform = Callable[[Image.Image], Image.Image]
ACCEPTED = (
    "a path, the bytes of a file, an open file, a PIL image, or an array or tensor of uint8, or of floats from 0 to 1, "
    "of shape (28, 28), (1, 28, 28) or (N, 1, 28, 28)"
)


class Prediction(NamedTuple):
    """What a picture is taken for."""

    name: str | None
    """The most probable class; None for a picture that is nothing but background."""
    probability: float | None
    """Its calibrated probability, from 0 to 1."""
    probabilities: dict[str, float]
    """That of every class."""
    note: str
    """What was assumed when the picture was converted, and whether it is unlike the training images."""
    typicality: float | None = None
    """Share of the validation images that are less typical than this one, from 0 to 1; None if it is not known."""

    def __str__(self) -> str:
        """Writes the three most probable classes, and the note."""
        best = sorted(self.probabilities.items(), key=lambda item: -item[1])[:3]
        classes = ", ".join(f"{name} {percent(probability)}" for name, probability in best)
        return f"{classes or 'no class'}{f' ({self.note})' if self.note else ''}"


def load(
    checkpoint: str | Path | Sequence[str | Path],
    device: str | torch.device = "cpu",
    network: NetworkFactory | None = None,
    transform: Transform | None = None,
) -> "Predictor":
    """Loads a trained model; nothing in the file is executed.

    Args:
        checkpoint: A checkpoint, such as ``lightning_logs/version_0/checkpoints/best.ckpt``, or a run, such as
            ``version_0``: then its best. Several, or a folder of runs such as a sweep's, answer as one.
        device: Where to compute.
        network: The class or function that made the network, if it is not the MLP.
        transform: The function that was applied to each PIL image in training, if there was one.

    Raises:
        UserError: The file is not a checkpoint of fmnist, or several do not fit together.
        CodeNotNamedError: Its network is not the MLP, and has not been given.
        OSError: The file cannot be read.
    """
    named = [checkpoint] if isinstance(checkpoint, str | Path) else checkpoint
    check(len(named) > 0, "load() was given an empty list: name a checkpoint or a run")
    paths = find_checkpoints([str(one) for one in named], Path())
    members = [(path, read_checkpoint(path, network)) for path in paths]
    if len(members) > 1:
        check_members(members, same_split=False)
    conversion = members[0][1].get("conversion")
    return Predictor(load_members(members, network).to(device), conversion, transform)


class Predictor:
    """Classifies pictures. It keeps no state, so several threads may share one.

    Args:
        model: A trained model, on the device where to compute.
        conversion: How pictures were converted in training, as a checkpoint says it; as it was before 0.2 if not given.
        transform: The function that was applied to each PIL image first, if ``conversion`` names one.

    Raises:
        UserError: ``conversion`` is unknown.
    """

    def __init__(
        self, model: TrainedModel, conversion: dict[str, Any] | None = None, transform: Transform | None = None
    ) -> None:
        self.model = model.eval()
        self.class_names = model.class_names
        self.description = conversion or FIRST_CONVERSION
        self.conversion = cast(Conversion, self.description["name"])
        self.transform = transform
        known = self.conversion in get_args(Conversion)
        check(known, f"the checkpoint asks for the conversion {self.conversion!r}, which this version does not know")

    def classify(self, pictures: Any) -> Prediction | list[Prediction]:
        """Classifies one picture or several.

        Args:
            pictures: A path, the bytes of a file, an open file, a PIL image, or an array or tensor: uint8, or
                floats from 0 to 1; of shape (28, 28), (1, 28, 28) or, for several, (N, 1, 28, 28). Or a list of
                any of these. Files and PIL images are converted as the data set was; arrays are taken as they are.

        Returns:
            One prediction for one picture; a list for a list or a batch.

        Raises:
            ValueError: A picture cannot be read, or has the wrong type, shape or range.
        """
        if isinstance(pictures, list):
            return self._classify([self._convert(picture) for picture in pictures])
        if getattr(pictures, "ndim", 0) == 4:
            return self._classify([Converted(image, "") for image in _check_array(pictures)])
        return self._classify([self._convert(pictures)])[0]

    def _classify(self, converted: list[Converted]) -> list[Prediction]:
        if not converted:
            return []
        probabilities, typicality = self.judge([image for image, *_ in converted])
        shares = [None] * len(converted) if typicality is None else typicality.tolist()
        rows = zip(probabilities.tolist(), probabilities.argmax(1).tolist(), shares, converted, strict=True)
        return [self._predict(*row) for row in rows]

    def _predict(self, row: list[float], label: int, typicality: float | None, converted: Converted) -> Prediction:
        if converted.empty:
            return Prediction(None, None, {}, converted.note)
        note = describe_typicality(converted.note, typicality)
        named = dict(zip(self.class_names, row, strict=True))
        return Prediction(self.class_names[label], row[label], named, note, typicality)

    def read(self, picture: str | Path | IO[bytes]) -> Converted:
        """Reads a picture's file and converts it as in training; see ``fmnist.data.photos.read_picture``."""
        self.check_transform()
        return read_picture(picture, self.transform, self.conversion)

    def read_bytes(self, content: bytes) -> Converted:
        """Reads the content of a picture's file and converts it as in training.

        Raises:
            PictureError: It is no picture, is damaged, or is too large.
        """
        return self.read(io.BytesIO(content))

    def classify_converted(self, converted: Converted) -> Prediction:
        """Classifies a picture that has been converted."""
        return self._classify([converted])[0]

    def check_transform(self) -> None:
        """Raises a ``UserError`` if training had a transform that was not given."""
        missing = self.description.get("transform") if self.transform is None else None
        check(
            not missing,
            f"in training each picture went through the transform {missing}: if you trust that code, give it, "
            f"in Python as load(checkpoint, transform=...), on the command line with --transform {missing}",
        )

    def _convert(self, picture: Any) -> Converted:
        if isinstance(picture, bytes | bytearray):
            picture = io.BytesIO(picture)
        if isinstance(picture, str | Path) or hasattr(picture, "read"):
            try:
                return self.read(expand(picture) if isinstance(picture, str | Path) else picture)
            except ValueError as error:
                name = picture if isinstance(picture, str | Path) else getattr(picture, "name", "the picture")
                raise ValueError(f"{name} {error}") from error
        if isinstance(picture, Image.Image):
            self.check_transform()
            try:
                return convert(apply(self.transform, picture) if self.transform else picture, self.conversion)
            except OSError as error:
                raise ValueError(f"the picture is damaged ({error})") from error
        image = _check_array(picture)
        if image.ndim != 3:
            raise ValueError("a list holds single pictures: give a batch by itself")
        return Converted(image, "")

    def probabilities(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """Maps images, uint8 (1, 28, 28) each, to calibrated probabilities, float (N, num_classes), on the CPU."""
        return self.judge(images)[0]

    def judge(self, images: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor | None]:
        """Maps the same to their probabilities and their typicality, as ``TrainedModel.judge`` does, on the CPU."""
        with torch.inference_mode():
            probabilities, typicality = self.model.judge(torch.stack([*images]).to(self.model.temperature.device))
        return probabilities.cpu(), None if typicality is None else typicality.cpu()


def describe_typicality(note: str, typicality: float | None) -> str:
    """Adds to a note what a typicality means, if it means something."""
    if typicality is None:
        return "; ".join(filter(None, (note, NOT_KNOWN)))
    return "; ".join(filter(None, (note, UNLIKE_NOTE if typicality < UNLIKE else "")))


def compare(predictor: Predictor, compute: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Compares another way to compute a model with the model, on made-up images from empty to full.

    Args:
        predictor: The model.
        compute: Maps images, uint8 (N, 1, 28, 28), to probabilities, (N, num_classes).

    Returns:
        The largest difference between two probabilities, and the share of images with the same class.
    """
    random = np.random.default_rng(0)
    strength = random.random((CHECKED, 1, 1, 1))
    images = (random.random((CHECKED, 1, SIDE, SIDE)) ** (4 * strength) * strength * 255).astype(np.uint8)
    found, expected = compute(images), predictor.probabilities(torch.from_numpy(images)).numpy()
    return float(np.abs(found - expected).max()), float((found.argmax(1) == expected.argmax(1)).mean())


def _check_array(array: Any) -> Tensor:
    """Returns an array or tensor as uint8 (1, 28, 28) or (N, 1, 28, 28)."""
    if not isinstance(array, Tensor | np.ndarray):
        raise ValueError(f"a {type(array).__name__} is not a picture: give {ACCEPTED}")
    if isinstance(array, np.ndarray) and array.dtype.kind not in "uif":
        raise ValueError(f"a picture cannot be {array.dtype}: give {ACCEPTED}")
    if isinstance(array, np.ndarray):
        array = torch.tensor(array.astype(array.dtype.newbyteorder("="), order="C"))
    images: Tensor = array.detach().cpu()
    if images.shape == (SIDE, SIDE):
        images = images.unsqueeze(0)
    if images.ndim not in (3, 4) or images.shape[-3:] != (1, SIDE, SIDE):
        raise ValueError(f"a picture cannot have the shape {tuple(images.shape)}: give {ACCEPTED}")
    if images.is_floating_point():
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError(f"floats must be from 0 to 1: give {ACCEPTED}")
        return (images * 255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise ValueError(f"a picture cannot be {images.dtype}: give {ACCEPTED}")
    return images
