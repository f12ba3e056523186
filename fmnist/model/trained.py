"""What a training has found: a network, the temperature of its calibration, the names of its classes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fmnist.errors import UserError, check
from fmnist.model.mlp import MLP, PixelNormalization, check_pixels
from fmnist.model.typicality import LastInput, Typicality
from fmnist.names import describe_code

FIRST_CONVERSION = {"name": "distance", "transform": None}  # of pictures, in checkpoints that do not say
PART = 500  # images that are judged at once
MLP_SETTINGS = ("hidden_dims", "dropout", "normalization", "activation")


class NetworkFactory(Protocol):
    """A class, or a function, that makes a network for a number of classes."""

    def __call__(self, *, num_classes: int) -> nn.Module:
        """Makes a network that maps normalized images, float32 (B, 1, 28, 28), to logits (B, num_classes)."""


@runtime_checkable
class Several(Protocol):
    """A network of several, which knows by itself how typical images are."""

    def typicality(self, images: Tensor) -> Tensor | None:
        """Returns the typicality of a batch, float (B,); None if it is not known."""


class TrainedModel(nn.Module):
    """A trained network that answers with calibrated probabilities.

    Its weights have the names that they have in a checkpoint: ``network.*`` and ``temperature``.

    Args:
        network: Maps images, uint8 (B, 1, 28, 28), to logits, float (B, num_classes).
        class_names: Name of each class.
        typicality: What ``TypicalityFitter.fit`` returned; the network is then listened to. Nothing if it is not known.
    """

    temperature: Tensor

    def __init__(
        self, network: nn.Module, class_names: Sequence[str], typicality: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names = list(class_names)
        self.register_buffer("temperature", torch.ones(()))
        self.typicality = Typicality(typicality) if typicality else None
        self.last_input = LastInput(network) if typicality else None

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 or floats from 0 to 1, (B, 1, 28, 28), to calibrated probabilities (B, num_classes)."""
        return self.judge(images)[0]

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Maps the same images to their probabilities and their typicality.

        Returns:
            float (B, num_classes); and the share of validation images that are less typical, from 0 to 1, float (B,),
            or None if it is not known.
        """
        check_pixels(images)
        logits = self.network(images)
        features = self.last_input.take() if self.last_input else None
        share = self.network.typicality(images) if isinstance(self.network, Several) else None
        if self.typicality is not None and features is not None:
            share = self.typicality(images, features, logits)
        return calibrate(logits, self.temperature), share


def judge_all(model: TrainedModel, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Answers for any number of images, uint8 (N, 1, 28, 28), as ``judge`` does for a batch; on the CPU."""
    device = model.temperature.device
    with torch.inference_mode():
        parts = [model.judge(part.to(device)) for part in torch.split(images, PART)]
    shares = [share.cpu() for _, share in parts if share is not None]
    return torch.cat([probabilities.cpu() for probabilities, _ in parts]), torch.cat(shares) if shares else None


def calibrate(logits: Tensor, temperature: Tensor) -> Tensor:
    """Turns logits, float (B, num_classes), into probabilities that fit how often they are right."""
    return torch.softmax(logits.float() / temperature, dim=1)


def build_network(settings: Mapping[str, Any], factory: NetworkFactory | None = None) -> nn.Module:
    """Builds the network that settings describe, normalization of the pixels included.

    Args:
        settings: Hyper-parameters of an ``ImageClassifier``; mean and std of Fashion-MNIST where they are None.
        factory: Makes the network; the MLP of the settings if not given.
    """
    classes = len(settings["class_names"])
    pixels = {name: settings[name] for name in ("mean", "std") if settings[name] is not None}
    if factory is None:
        return MLP(classes, **{name: settings[name] for name in MLP_SETTINGS}, **pixels)
    try:
        network = factory(num_classes=classes)
    except TypeError as error:
        if "num_classes" not in str(error):
            raise
        raise UserError(f"model.network is called with num_classes, which it must take: {error}") from error
    check(isinstance(network, nn.Module), f"model.network made a {type(network).__name__}, which is no nn.Module")
    whole = nn.Sequential(PixelNormalization(**pixels), network)
    _try(whole, classes)
    return whole


def _try(network: nn.Sequential, classes: int) -> None:
    """Shows two images to a network that has just been made, which changes nothing in it.

    Raises:
        UserError: It cannot take them, or returns something else than finite logits.
    """
    name = f"model.network {type(network[-1]).__name__}"
    modes = {module: module.training for module in network.modules()}
    images = (torch.arange(2 * 28 * 28) % 256).to(torch.uint8).reshape(2, 1, 28, 28)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = network.eval()(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{name} cannot take normalized images, float (2, 1, 28, 28): {reason}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    check(isinstance(logits, Tensor), f"{name} returns a {type(logits).__name__}: it must return logits as a tensor")
    found, wanted = tuple(logits.shape), (2, classes)
    check(found == wanted, f"{name} returns the shape {found} for two images: it must be {wanted}, a logit per class")
    check(logits.is_meta or bool(logits.isfinite().all()), f"{name} returns logits that are not finite, when it is new")


def describe_network(factory: NetworkFactory | None) -> Any:
    """Writes a network down as plain values, as the command line does.

    Args:
        factory: A class, a function, or a ``functools.partial`` of a class with keywords.

    Returns:
        A function's path; of a class ``class_path`` and ``init_args``; None for None.

    Raises:
        UserError: It has no name that could be imported, or settings that are no plain values.
    """
    if factory is None:
        return None
    if isinstance(factory, str | dict):
        described = factory["class_path"] if isinstance(factory, dict) else factory
        raise UserError(f"model.network is the description of {described}: give the class or the function itself")
    made, settings = factory, {}
    if isinstance(factory, partial):  # the command line's own hold the class as their last argument
        made, settings = (factory.args or (factory.func,))[-1], factory.keywords
    path = describe_code(made)
    if path is None:
        raise UserError(f"model.network: {made!r} has no name: give a class or a function of a module")
    whole = isinstance(made, type) or not settings
    check(whole, f"model.network: {path} is a function, whose settings would be lost: give a class")
    check(_is_plain(settings), f"model.network: the settings of {path} are no plain values: numbers, texts, lists")
    return {"class_path": path, "init_args": dict(settings)} if isinstance(made, type) else path


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
