"""Checks of what a classifier is given: settings, images, and a custom network before its first step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmnist.errors import UserError, check
from fmnist.model.network import IMAGE_SHAPE, example_images, is_image_shape, name_network, run_network
from fmnist.model.typicality import forward_with_features

TOLERANCE = 0.01  # resizing with interpolation can leave [0, 1] by this much
CLOSE = 1e-2  # largest difference between logits that are the same, as a share of the largest logit
REGISTER = "hold layers in nn.ModuleList, not in a list, and other tensors in register_buffer()"


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises a ``UserError`` for a setting of an ``ImageClassifier`` that makes no sense."""
    within = "it must be in [0, 1)"
    for name, right, rule in (
        ("hidden_dims", lambda value: all(width > 0 for width in value), "widths are positive"),
        ("dropout", lambda value: 0 <= value < 1, within),
        ("mean", lambda value: all(map(math.isfinite, _as_list(value))), "it must be a number"),
        ("std", lambda value: all(0 < one < math.inf for one in _as_list(value)), "it must be positive"),
        ("image_shape", is_image_shape, "it must be channels, height and width, at most 16, 1024 and 1024"),
        ("warmup_ratio", lambda value: 0 <= value <= 1, "it must be in [0, 1]"),
        ("mixup", lambda value: 0 <= value < math.inf, "it must not be negative, nor infinite"),
        ("label_smoothing", lambda value: 0 <= value < 1, within),
    ):
        check(right(settings[name]), f"model.{name} is {settings[name]}: {rule}")


def _as_list(value: float | Sequence[float] | None) -> Sequence[float]:
    return value if isinstance(value, Sequence) else [] if value is None else [value]


def check_pixels(images: Tensor) -> None:
    """Raises a ``UserError`` for floats outside of [0, 1]: images that are already normalized, or not yet divided.

    Args:
        images: (B, C, H, W); bytes cannot be wrong, and looking at them would make the host wait for the device.
    """
    if not images.is_floating_point() or torch.compiler.is_compiling():
        return
    low, high = images.aminmax()
    check(
        bool(low >= -TOLERANCE) and bool(high <= 1 + TOLERANCE),
        f"images of floats must lie between 0 and 1, as ToTensor() gives them: here are {low:.2f} to {high:.2f}; "
        f"leave out Normalize(), or give uint8: the network normalizes by itself",
    )


def check_network(
    network: nn.Module,
    build: Callable[[], nn.Module],
    warn: Callable[[str], None],
    image_shape: Sequence[int] = IMAGE_SHAPE,
) -> bool:
    """Uses copies of a new custom network as training, evaluation and loading will; the network itself is not used.

    Args:
        network: What ``build_network`` returned.
        build: Makes another one of the same kind.
        warn: Prints a line.
        image_shape: Channels, height and width of the images.

    Returns:
        Whether the network has features for typicality.

    Raises:
        UserError: It cannot be trained, loaded again, or used for a single image.
    """
    name, images = name_network(network), example_images(image_shape)
    with torch.random.fork_rng(devices=[]):
        model, again = (_copy(network, build).eval() for _ in range(2))
        logits = _forward(model, images)
        repeats = [not _differ(logits, _forward(model, images, seed)) for seed in (0, 1)]
        restored = not repeats[0] or not _differ(logits, _forward(again, images))
        check(restored, f"{name} answers differently when it is built again with its weights: {REGISTER}")
        _check_training(_copy(network, build), images, logits)
        if all(repeats):
            _check_single_images(model, images, logits)
        available = all(_has_features(model, images[:count]) for count in (1, 2))
    if not all(repeats):
        warn(f"warning: {name} answers the same image differently each time: figures do not repeat")
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        warn(f"warning: {name} ends with softmax, and so does the loss: leave it out, or it learns slowly")
    if not available:
        warn(f"note: typicality is not available: no last linear layer of {name} sees a row per image")
    return available


def _copy(network: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
    """Builds a network once more, with the same weights; zeros are replaced, which would hide what is before them."""
    state, copy = network.state_dict(), build()
    for key, weights in network.named_parameters():
        if not weights.any():
            state[key] = torch.linspace(-0.1, 0.1, weights.numel(), dtype=weights.dtype).view_as(weights)
    try:
        copy.load_state_dict(state)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise UserError(f"{name_network(network)}: its weights cannot be loaded again: {reason}") from error
    return copy


def _forward(network: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        logits: Tensor = run_network(network, images, ("no image", "a single image", "two images")[len(images)])
    return logits


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > CLOSE * one.abs().max())


def _check_training(network: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Refuses a network that returns no logits in training mode, or logits that nothing can be learned from."""
    name, wanted = name_network(network), tuple(logits.shape)
    with torch.enable_grad():
        output = run_network(network, images, "two images in training")
    kind = type(output).__name__
    check(isinstance(output, Tensor), f"{name} returns a {kind} in training: it must return logits as a tensor")
    found = tuple(output.shape)
    check(found == wanted, f"{name} returns the shape {found} for two images in training, and {wanted} in evaluation")
    check(output.requires_grad, f"{name} returns logits without a gradient in training: nothing could be learned")


def _check_single_images(network: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Refuses a network that has other logits for an image alone than among others."""
    name, wanted = name_network(network), (1, logits.shape[1])
    for number, row in enumerate(logits):
        alone = _forward(network, images[number : number + 1])
        found = tuple(alone.shape)
        check(found == wanted, f"{name} returns the shape {found} for a single image: it must be {wanted}")
        alike = not _differ(row, alone[0])
        check(alike, f"{name} answers an image alone otherwise than among others: it must not use the others' pixels")


def _has_features(network: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        features = forward_with_features(network, images)[1]
    return features is not None and len(features) == len(images)
