"""Checks of a custom network before its first step: it is used with two images in every way that follows."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fmnist.errors import UserError, check
from fmnist.model.network import example_images
from fmnist.model.typicality import forward_with_features

CLOSE = 1e-2  # largest difference between logits that are the same, as a share of the largest logit


def check_network(network: nn.Module, build: Callable[[], nn.Module]) -> tuple[list[str], bool]:
    """Uses copies of a new custom network as training, evaluation and loading will; the network itself is not used.

    Args:
        network: What ``build_network`` returned.
        build: Makes another one of the same kind.

    Returns:
        Warnings, a line each; and whether the network has features for typicality.

    Raises:
        UserError: It cannot be trained, loaded again, or used for one image alone.
    """
    name = f"model.network {type(network[-1]).__name__}"  # type: ignore[index]
    images = example_images()
    with torch.random.fork_rng(devices=[]):
        model, again = (_copy(network, build, name).eval() for _ in range(2))
        logits = _forward(model, images, name)
        random = _differ(logits, _forward(model, images, name, seed=1))
        restored = not _differ(logits, _forward(again, images, name))
        check(restored, f"{name} answers differently when it is built again with its weights: {REGISTER}")
        _check_training(_copy(network, build, name), images, tuple(logits.shape), name)
        if not random:
            _check_single_images(model, images, logits, name)
        available = all(_has_features(model, images[:count]) for count in (1, 2))
    warnings = [f"warning: {name} answers the same image differently each time: figures do not repeat"] * random
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        warnings.append(f"warning: {name} ends with softmax, and so does the loss: leave it out, or it learns slowly")
    if not available:
        warnings.append(f"note: typicality is not available: no last linear layer of {name} sees a row per image")
    return warnings, available


REGISTER = "hold layers in nn.ModuleList, not in a list, and other tensors in register_buffer()"


def _copy(network: nn.Module, build: Callable[[], nn.Module], name: str) -> nn.Module:
    """Builds a network once more, with the same weights; zeros are replaced, behind which nothing would be seen."""
    state, copy = network.state_dict(), build()
    for key, weights in network.named_parameters():
        if not weights.any():
            state[key] = torch.linspace(-0.1, 0.1, weights.numel(), dtype=weights.dtype).view_as(weights)
    try:
        copy.load_state_dict(state)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise UserError(f"{name}: its weights cannot be loaded again: {reason}") from error
    return copy


def _forward(network: nn.Module, images: Tensor, name: str, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    try:
        with torch.no_grad():
            logits: Tensor = network(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        what = "one image alone" if len(images) == 1 else "two images"
        raise UserError(f"{name} cannot take {what} in evaluation: {_reason(error)}") from error
    return logits


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or bool((one - other).abs().max() > CLOSE * one.abs().max())


def _check_training(network: nn.Module, images: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Refuses a network that returns no logits in training mode, or logits that nothing can be learned from."""
    try:
        with torch.enable_grad():
            logits = network(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{name} cannot take two images in training: {_reason(error)}") from error
    kind = type(logits).__name__
    check(isinstance(logits, Tensor), f"{name} returns a {kind} in training: it must return logits as a tensor")
    found = tuple(logits.shape)
    check(found == shape, f"{name} returns the shape {found} for two images in training, and {shape} in evaluation")
    check(logits.requires_grad, f"{name} returns logits without a gradient in training: nothing could be learned")


def _check_single_images(network: nn.Module, images: Tensor, logits: Tensor, name: str) -> None:
    """Refuses a network that answers an image alone otherwise than among others."""
    for number, row in enumerate(logits):
        alone = _forward(network, images[number : number + 1], name)
        found, wanted = tuple(alone.shape), (1, len(row))
        check(found == wanted, f"{name} returns the shape {found} for one image alone: it must be {wanted}")
        alike = not _differ(row, alone[0])
        check(alike, f"{name} answers an image alone otherwise than among others: it must not use the others' pixels")


def _has_features(network: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        features = forward_with_features(network, images)[1]
    return features is not None and len(features) == len(images)
