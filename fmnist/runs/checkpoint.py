"""Checkpoints, read without running anything in them, and the models that they hold."""

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmnist.errors import UserError, check
from fmnist.files import digest_file
from fmnist.limits import check_size
from fmnist.model.ensemble import Ensemble
from fmnist.model.mlp import MLP
from fmnist.model.network import (
    NETWORKS,
    NetworkFactory,
    build_network,
    build_on_meta,
    describe_shape,
    is_image_shape,
)
from fmnist.model.trained import TrainedModel
from fmnist.names import UntrustedCodeError
from fmnist.runs.archive import read_archive
from fmnist.runs.pickled import DTYPES
from fmnist.runs.tensor_file import SUFFIX, read_tensor_file

Checkpoint = dict[str, Any]
Member = tuple[Path, Checkpoint]  # of an ensemble: where its checkpoint was read, and the content
DATA = "FashionMNISTDataModule"  # the state of the data module, by the name of its class
REQUIRED = {"class_names", "image_shape", "lr_schedule", "mean", "std"}  # settings in each checkpoint of this project


def data_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the state of the data module in a checkpoint; empty if there is none."""
    return checkpoint.get(DATA) or {}


def read_checkpoint(path: Path, network: NetworkFactory | None = None) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: An existing file.
        network: The class or function that the network was made by, if it is not one of the package.

    Returns:
        What Lightning saved; at least ``state_dict``, ``hyper_parameters``, ``conversion`` and ``epoch``.

    Raises:
        UserError: The file is damaged, is no checkpoint, or holds something other than plain values.
        UntrustedCodeError: Its network is not one of the package, and has not been given.
    """
    checkpoint = read_values(path)
    choose_network(path, checkpoint["hyper_parameters"], network)
    return checkpoint


def choose_network(path: Path, settings: dict[str, Any], given: NetworkFactory | None) -> NetworkFactory | None:
    """Returns what makes the network of a checkpoint, one of ``NETWORKS`` or what is given; None for the MLP.

    Args:
        path: The checkpoint's file.
        settings: Its hyper-parameters. The name of a network in there is only shown, never imported.
        given: The class or function that the user trusts.

    Raises:
        UntrustedCodeError: None was given, and the network is not one of the package.
    """
    described = settings.get("network")
    if described is None:
        return None
    name = str(described.get("class_path") if isinstance(described, dict) else described)
    made: Any = given or NETWORKS.get(name)  # a class or a function
    if made is None:
        raise UntrustedCodeError(path, {"model.network": name})
    arguments = described.get("init_args") if isinstance(described, dict) else None
    if inspect.isclass(made) and isinstance(arguments, dict):
        made = partial(made, **arguments)
    factory: NetworkFactory = made
    return factory


def read_values(path: Path) -> Checkpoint:
    """Loads a checkpoint as ``read_checkpoint`` does, with any network."""
    checkpoint = read_saved(path)
    with _one_line(path):
        check_size(checkpoint["hyper_parameters"])
        settings = json.loads(json.dumps(checkpoint["hyper_parameters"]))  # plain values, or an error
        known = settings.keys() >= REQUIRED and isinstance(checkpoint["epoch"], int) and checkpoint["epoch"] >= 0
        if known:
            _check_settings(settings)
            _check_parts(checkpoint)
    check(known, f"{path} is the checkpoint of another project: give another --ckpt_path")
    return {**checkpoint, "hyper_parameters": {name: value for name, value in settings.items() if name[:1] != "_"}}


def read_saved(path: Path) -> Checkpoint:
    """Loads what Lightning or ``export`` has saved as plain values and tensors, which are not checked yet."""
    with _one_line(path):
        return dict(read_tensor_file(path) if path.suffix == SUFFIX else read_archive(path))


def load_model(
    path: Path,
    checkpoint: Checkpoint,
    network: NetworkFactory | None = None,
    convert: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> TrainedModel:
    """Builds the model of a checkpoint, with its weights.

    Args:
        path: Where the checkpoint was read.
        checkpoint: What ``read_checkpoint`` returned.
        network: As there.
        convert: Applied to the network before it gets its weights: 64 bits would be cut to 32.
    """
    settings, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    factory = choose_network(path, settings, network)
    if factory:
        check_weights(path, checkpoint, network)
    with _one_line(path):
        if factory is None:
            _check_widths(settings, weights)
        built, typicality = convert(build_network(settings, factory)), checkpoint.get("typicality") or {}
        model = TrainedModel(built, settings["class_names"], typicality, settings["image_shape"]).eval()
        _check_state(weights, model)
        model.load_state_dict(weights)
        _check_answer(model)
    return model


def load_members(members: Sequence[Member], *how: Any) -> TrainedModel:
    """Builds the model of a checkpoint, or of several the ensemble; more arguments are those of ``load_model``."""
    models = [load_model(path, checkpoint, *how) for path, checkpoint in members]
    return models[0] if len(models) == 1 else Ensemble(models).eval()


def check_members(members: Sequence[Member], same_split: bool) -> None:
    """Refuses checkpoints that cannot be one ensemble.

    Args:
        members: The checkpoints; each is compared with the first.
        same_split: Whether they must have been trained without the same validation images.

    Raises:
        UserError: Names the one that differs, and in what.
    """
    known: dict[str, Path] = {}
    (first, expected), *_ = members
    for path, checkpoint in members:
        twin = known.setdefault(digest_file(path), path)
        check(twin is path, f"{path} and {twin} are the same checkpoint: leave one of them out")
        for what, here in _describe(checkpoint, same_split).items():
            there = _describe(expected, same_split)[what]
            differs = f"its {what} {here:.200}, not {there:.200}"
            check(here == there, f"{path} does not fit {first}: {differs}; leave one of them out")


def _describe(checkpoint: Checkpoint, with_split: bool) -> dict[str, str]:
    split = data_state(checkpoint).get("split") or "unknown"
    conversion, settings = checkpoint["conversion"], checkpoint["hyper_parameters"]
    return {
        "classes are": ", ".join(settings["class_names"]),
        "images are": describe_shape(settings["image_shape"]),
        "pictures were converted by": " after ".join(filter(None, (conversion["name"], conversion.get("transform")))),
        **({"split of the data is": split} if with_split else {}),
    }


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        what = f"{path} is not a checkpoint of fmnist ({type(error).__name__}: {reason})"
        raise UserError(f"{what}: give another --ckpt_path") from error


def _check_settings(settings: dict[str, Any]) -> None:
    names, mean, std = (settings[name] for name in ("class_names", "mean", "std"))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are not texts")
    "".join(names).encode()  # a lone surrogate can be read, but not written
    if not is_image_shape(settings["image_shape"]):
        raise ValueError("the shape of its images is not valid")
    means, stds = ([] if value is None else value if isinstance(value, list) else [value] for value in (mean, std))
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in means + stds)
    if not numbers or any(value <= 0 for value in stds):
        raise ValueError("its mean or std of the pixels is not valid")
    for name in ("network", "optimizer"):
        made = settings.get(name)
        if isinstance(made, dict) and not (
            isinstance(made.get("class_path"), str) and isinstance(made.get("init_args", {}), dict)
        ):
            raise ValueError(f"its {name} is not described by a class")


def _check_parts(checkpoint: Checkpoint) -> None:
    weights, typicality, conversion, data = parts = [
        checkpoint.get(part, {}) for part in ("state_dict", "typicality", "conversion", DATA)
    ]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError("one of its parts is not a dict")
    check_size([conversion, data])
    if not isinstance(conversion.get("name"), str) or not isinstance(conversion.get("transform"), str | None):
        raise ValueError("it does not say how pictures are converted")
    seen = data.get("trained_on")
    digests = seen is None or (isinstance(seen, Tensor) and seen.dtype == torch.int64)
    if not digests or not isinstance(data.get("split", ""), str):
        raise ValueError("its record of the data is damaged")
    check_tensors(weights)
    check_tensors(typicality)
    if not all(tensor.isfinite().all() for tensor in typicality.values()):
        raise ValueError("its typicality is not finite")


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Refuses what cannot be a weight in a checkpoint.

    Raises:
        ValueError: One of them is something else, sparse, of a rare type, or larger than it is stored.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in DTYPES.values():
            raise ValueError(f"its {name} is not a plain tensor")
        if not tensor.is_meta and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"its {name} is larger than it is stored")


def check_restorable(network: nn.Module) -> None:
    """Raises a ``UserError`` for a new custom network of which no checkpoint could be read."""
    try:
        check_tensors(network.state_dict())
    except ValueError as error:
        raise UserError(f"model.network: no checkpoint of it could be read: {error}") from error
    for name, weights in network.named_parameters():
        right = bool(weights.isfinite().all())
        check(right, f"model.network: the parameter {name} is not finite when it is new; a mask is a buffer")


def check_weights(path: Path, checkpoint: Checkpoint, network: NetworkFactory | None) -> None:
    """Refuses weights that are not those of the network, before one of the size that they claim is built.

    Args:
        path: Where the checkpoint was read.
        checkpoint: What ``read_checkpoint`` returned.
        network: As there.
    """
    settings = checkpoint["hyper_parameters"]
    factory = choose_network(path, settings, network)
    with _one_line(path):
        _check_state(checkpoint["state_dict"], TrainedModel(build_on_meta(settings, factory), settings["class_names"]))


def _check_widths(settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Refuses an MLP of other layers than are stored, before one of their size is built."""
    expected = pairwise([math.prod(settings["image_shape"]), *settings["hidden_dims"], len(settings["class_names"])])
    found = [(weight.shape[1], weight.shape[0]) for weight in weights.values() if weight.ndim == 2]
    if sorted(found) != sorted(expected):
        raise ValueError("its weights do not fit the network it describes")


def _check_state(weights: dict[str, Tensor], model: TrainedModel) -> None:
    """Refuses weights of another network, and such as are not finite; buffers of a custom network need not be."""
    found, expected = (
        {name: (tensor.shape, tensor.is_complex()) for name, tensor in state.items()}
        for state in (weights, model.state_dict())
    )
    if found != expected:
        raise ValueError("its weights do not fit the network it describes")
    buffers = () if isinstance(model.network, MLP) else {f"network.{name}" for name, _ in model.network.named_buffers()}
    if not all(tensor.isfinite().all() for name, tensor in weights.items() if name not in buffers):
        raise ValueError("it has weights that are not finite")
    if not weights["temperature"] > 0:
        raise ValueError("its temperature is not positive")


def _check_answer(model: TrainedModel) -> None:
    """Refuses a model that returns no probabilities, or no typicality, for a black and a white image."""
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, *model.image_shape)
    with torch.inference_mode():
        output = model.predict(images)
    if not output.probabilities.isfinite().all():
        raise ValueError("its probabilities are not finite")
    shares = output.typicality
    if shares is not None and not (shares.shape == (2,) and ((shares >= 0) & (shares <= 1)).all()):
        raise ValueError("its typicality is not from 0 to 1")
