"""The network that settings describe: built, written down as plain values, and its head found."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fmnist.errors import UserError, check
from fmnist.model.convnet import ConvNet
from fmnist.model.mlp import MLP, PixelNormalization
from fmnist.names import describe_code

IMAGE_SHAPE = (1, 28, 28)  # channels, height and width of Fashion-MNIST's images
MAX_SIDE, MAX_CHANNELS = 1024, 16
# The only classes that the network in a checkpoint can mean, other than the MLP, if the user names none
NETWORKS = {"fmnist.model.convnet.ConvNet": ConvNet}
MLP_SETTINGS = ("hidden_dims", "dropout", "normalization", "activation")


class NetworkFactory(Protocol):
    """A class, or a function, that makes a network for a number of classes."""

    def __call__(self, *, num_classes: int) -> nn.Module:
        """Makes a network that maps normalized images, float32 (B, C, H, W), to logits (B, num_classes)."""


def build_network(settings: Mapping[str, Any], factory: NetworkFactory | None = None) -> nn.Module:
    """Builds the network that settings describe, normalization of the pixels included.

    Args:
        settings: Hyper-parameters of an ``ImageClassifier``; what is None of mean and std is Fashion-MNIST's.
        factory: Makes the network; the MLP of the settings if not given.

    Raises:
        UserError: The network cannot be made, or does not return logits for two images.
    """
    classes = len(settings["class_names"])
    shape = settings.get("image_shape") or IMAGE_SHAPE
    pixels = {name: settings[name] for name in ("mean", "std") if settings[name] is not None}
    for name, value in pixels.items():
        fits = not isinstance(value, Sequence) or len(value) in (1, shape[0])
        check(fits, f"model.{name} is {value}: give one number, or {shape[0]} for {describe_shape(shape)} images")
    if factory is None:
        return MLP(classes, **{name: settings[name] for name in MLP_SETTINGS}, **pixels, image_shape=shape)
    try:
        network = factory(num_classes=classes)
    except TypeError as error:
        if "num_classes" not in str(error):
            raise
        raise UserError(f"model.network is called with num_classes, which it must take: {error}") from error
    check(isinstance(network, nn.Module), f"model.network made a {type(network).__name__}, which is not an nn.Module")
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            expanded = not is_lazy(buffer) and buffer.layout == torch.strided and 0 in buffer.stride()
            if expanded:  # nothing can be loaded into memory that elements share
                setattr(module, name, buffer.contiguous())
    whole = nn.Sequential(PixelNormalization(**pixels), network)
    _check_logits(whole, classes, shape)
    return whole


def is_image_shape(shape: Any) -> bool:
    """Returns whether these are channels, height and width of images that can be had."""
    whole = isinstance(shape, list | tuple) and len(shape) == 3 and all(type(size) is int for size in shape)
    return whole and 1 <= shape[0] <= MAX_CHANNELS and all(1 <= side <= MAX_SIDE for side in shape[1:])


def describe_shape(shape: Sequence[int]) -> str:
    """Writes channels, height and width, such as ``3 x 64 x 64``."""
    return " x ".join(map(str, shape))


def example_images(shape: Sequence[int] = IMAGE_SHAPE) -> Tensor:
    """Returns two made-up images of a shape (C, H, W) that differ in brightness, uint8 (2, C, H, W)."""
    pixels = torch.arange(math.prod(shape), device="cpu")
    return torch.stack([pixels % 256, pixels * 7 % 64]).to(torch.uint8).reshape(2, *shape)


def name_network(network: nn.Module) -> str:
    """Returns what messages call a custom network."""
    return f"model.network {type(network[-1]).__name__}"  # type: ignore[index]


def run_network(network: nn.Module, images: Tensor, how: str) -> Any:
    """Returns what a custom network makes of images.

    Raises:
        UserError: It cannot take them ``how`` they are given.
    """
    try:
        return network(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{name_network(network)} cannot take {how}: {reason}") from error


def _check_logits(network: nn.Sequential, classes: int, shape: Sequence[int]) -> None:
    """Refuses a network that has no finite logits for two images; lazy layers get their shapes here."""
    name = name_network(network)
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            how = f"normalized images, float {(2, *shape)}"
            images = example_images(shape).to(next(network.buffers()).device)  # that of the normalization
            logits = run_network(network.eval(), images, how)
    finally:
        for module, training in modes.items():
            module.training = training
    check(isinstance(logits, Tensor), f"{name} returns a {type(logits).__name__}: it must return logits as a tensor")
    found, wanted = tuple(logits.shape), (2, classes)
    check(found == wanted, f"{name} returns the shape {found} for two images: it must be {wanted}, a logit per class")
    check(logits.is_meta or bool(logits.isfinite().all()), f"{name} returns logits that are not finite, when it is new")


def build_on_meta(settings: Mapping[str, Any], factory: NetworkFactory | None = None) -> nn.Module:
    """Builds a network without memory for its weights; as it is, if a custom one cannot be built like that."""
    try:
        with torch.device("meta"):
            return build_network(settings, factory)
    except Exception:
        if factory is None or getattr(factory, "func", None) in NETWORKS.values():  # ours can always be built like that
            raise
        return build_network(settings, factory)


def find_head(settings: Mapping[str, Any], factory: NetworkFactory | None = None) -> set[str]:
    """Returns the names of the weights whose shape depends on the number of classes, wherever they are defined."""
    names = settings["class_names"]
    state, other = (
        build_on_meta({**settings, "class_names": some}, factory).state_dict() for some in (names, [*names, "another"])
    )
    return {name for name, weights in state.items() if name not in other or weights.shape != other[name].shape}


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
