"""Checkpoints, read without running anything in them."""

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmnist.errors import UserError, check
from fmnist.files import digest_file
from fmnist.limits import check_size
from fmnist.model.ensemble import Ensemble
from fmnist.model.trained import FIRST_CONVERSION, NetworkFactory, TrainedModel, build_network
from fmnist.names import CodeNotNamedError
from fmnist.runs.archive import read_archive
from fmnist.runs.tensor_file import SUFFIX, read_tensor_file

Checkpoint = dict[str, Any]
Member = tuple[Path, Checkpoint]  # of an ensemble: where its checkpoint was read, and the content
COMMON = ("classes are", "pictures were converted by", "split of the data is")
DATA = "FashionMNISTDataModule"  # what a checkpoint says of its data, by the name of the class that says it
KNOWN = {"class_names", "lr_schedule", "mean", "std"}  # settings that the model of every checkpoint of ours has


def read_checkpoint(path: Path, network: NetworkFactory | None = None) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: An existing file.
        network: The class or function that the network was made by, if it is not the MLP.

    Returns:
        What Lightning saved; at least ``state_dict``, ``hyper_parameters`` and ``epoch``.

    Raises:
        UserError: The file is damaged, is no checkpoint, or holds something other than plain values.
        CodeNotNamedError: Its network is not the MLP, and has not been given.
    """
    checkpoint = read_values(path)
    settings = checkpoint["hyper_parameters"]
    factory = choose_network(path, settings, network)
    with _one_line(path):
        check_weights(checkpoint["state_dict"], settings, factory)
    return checkpoint


def choose_network(path: Path, settings: dict[str, Any], given: NetworkFactory | None) -> NetworkFactory | None:
    """Returns what makes the network of a checkpoint; None for the MLP.

    Args:
        path: The checkpoint's file.
        settings: Its hyper-parameters. The name of a network in there is only compared and shown, never imported.
        given: The class or function that the user has named.

    Raises:
        CodeNotNamedError: None was named, and the network is not the MLP.
    """
    described = settings.get("network")
    if described is None:
        return None
    if given is None:
        name = described.get("class_path") if isinstance(described, dict) else described
        raise CodeNotNamedError(path, {"model.network": str(name)})
    arguments = described.get("init_args") if isinstance(described, dict) else None
    made: Any = given  # a class or a function
    if inspect.isclass(made) and isinstance(arguments, dict):
        made = partial(made, **arguments)
    factory: NetworkFactory = made
    return factory


def read_values(path: Path) -> Checkpoint:
    """Loads a checkpoint as ``read_checkpoint`` does, without a look at its network.

    Raises:
        UserError: The file is damaged, is no checkpoint, or holds something other than plain values.
    """
    checkpoint = read_saved(path)
    with _one_line(path):
        check_size(checkpoint["hyper_parameters"])
        settings = json.loads(json.dumps(checkpoint["hyper_parameters"]))  # plain values, or an error
        known = settings.keys() >= KNOWN and isinstance(checkpoint["epoch"], int) and checkpoint["epoch"] >= 0
        if known:
            _check_names(settings["class_names"])
            _check_pixels(settings["mean"], settings["std"])
            _check_parts(checkpoint)
            for part in ("state_dict", "typicality"):
                _check_tensors(checkpoint.get(part, {}))
    check(known, f"{path} is the checkpoint of another project: give another --ckpt_path")
    return {**checkpoint, "hyper_parameters": {name: value for name, value in settings.items() if name[:1] != "_"}}


def read_saved(path: Path) -> Checkpoint:
    """Loads what Lightning or ``export`` has saved, whatever it says; nothing in it is executed.

    Raises:
        UserError: The file is damaged, or holds something other than plain values and tensors.
    """
    with _one_line(path):
        return dict(read_tensor_file(path) if path.suffix == SUFFIX else read_archive(path))


def load_model(path: Path, checkpoint: Checkpoint, network: NetworkFactory | None = None) -> TrainedModel:
    """Builds the model of a checkpoint, with its weights, ready to answer.

    Args:
        path: Where the checkpoint was read.
        checkpoint: What ``read_checkpoint`` returned.
        network: As there.
    """
    settings, typicality = checkpoint["hyper_parameters"], checkpoint.get("typicality") or {}
    built = build_network(settings, choose_network(path, settings, network))
    with _one_line(path):
        model = TrainedModel(built, settings["class_names"], typicality).eval()
        model.load_state_dict(checkpoint["state_dict"])
    check_answer(path, model)
    return model


def check_answer(path: Path, model: TrainedModel) -> None:
    """Refuses a model that answers a black or a white image with something that is no probability, or no typicality."""
    images = torch.tensor([0, 255], dtype=torch.uint8, device=model.temperature.device)
    with _one_line(path), torch.inference_mode():
        probabilities, shares = model.judge(images.view(2, 1, 1, 1).expand(2, 1, 28, 28))
        if not probabilities.isfinite().all():
            raise ValueError("its answers are no numbers")
        if shares is not None and not (shares.shape == (2,) and ((shares >= 0) & (shares <= 1)).all()):
            raise ValueError("its typicality makes no sense")


def load_members(members: Sequence[Member], network: NetworkFactory | None = None) -> TrainedModel:
    """Builds the model of a checkpoint, or of several the ensemble, ready to answer."""
    models = [load_model(path, checkpoint, network) for path, checkpoint in members]
    return models[0] if len(models) == 1 else TrainedModel(Ensemble(models), models[0].class_names).eval()


def check_members(members: Sequence[Member], same_split: bool) -> None:
    """Refuses checkpoints that cannot be one ensemble.

    Args:
        members: The checkpoints; each is compared with the first.
        same_split: Whether they must have been trained without the same validation images.

    Raises:
        UserError: Names the one that differs, and in what.
    """
    known: dict[str, Path] = {}
    first, expected = members[0][0], _describe(*members[0])
    for path, checkpoint in members:
        twin = known.setdefault(digest_file(path), path)
        check(twin is path, f"{path} and {twin} are the same checkpoint: leave one of them out")
        for what, here, there in zip(COMMON, _describe(path, checkpoint), expected, strict=True):
            right = here == there or (what == COMMON[-1] and not same_split)
            differs = f"its {what} {here:.200}, not {there:.200}"
            check(right, f"{path} does not fit {first}: {differs}; leave one of them out")


def _describe(path: Path, checkpoint: Checkpoint) -> tuple[str, str, str]:
    """Says in words what the members of an ensemble have in common."""
    with _one_line(path):
        conversion = checkpoint.get("conversion") or FIRST_CONVERSION
        split = (checkpoint.get(DATA) or {}).get("split") or "unknown"
        names = ", ".join(checkpoint["hyper_parameters"]["class_names"])
        return names, " after ".join(filter(None, conversion.values())), str(split)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with a foreign file into one line; anything at all can be."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        what = f"{path} is not a checkpoint of fmnist ({type(error).__name__}: {reason})"
        raise UserError(f"{what}: give another --ckpt_path") from error


def _check_names(names: Any) -> None:
    """Refuses what cannot be the names of classes."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("its classes are no names")
    "".join(names).encode()  # half a letter can be read, and not be written


def _check_parts(checkpoint: Checkpoint) -> None:
    """Refuses weights that are none, and what is said beside them if it is not of the kind that is used later."""
    for part in ("state_dict", "typicality", "conversion", DATA):
        if not isinstance(checkpoint.get(part, {}), dict):
            raise ValueError(f"its {part} is a {type(checkpoint[part]).__name__}")
    conversion, data = checkpoint.get("conversion", {}), checkpoint.get(DATA, {})
    check_size([conversion, data])
    seen = data.get("trained_on")
    right = {
        "state_dict": all(isinstance(value, Tensor) for value in checkpoint["state_dict"].values()),
        "typicality": all(isinstance(value, Tensor) for value in checkpoint.get("typicality", {}).values()),
        "conversion": not conversion
        or (isinstance(conversion.get("name"), str) and isinstance(conversion.get("transform"), str | None)),
        DATA: isinstance(data.get("split", ""), str)
        and (seen is None or (isinstance(seen, Tensor) and seen.dtype == torch.int64)),
    }
    for part in [part for part, kind in right.items() if not kind]:
        raise ValueError(f"its {part} is not that of a training")


def check_weights(weights: dict[str, Tensor], settings: dict[str, Any], network: NetworkFactory | None = None) -> None:
    """Refuses weights that are not those of the network, before one of the size they claim is built.

    Raises:
        ValueError: They do not fit.
    """
    names = settings["class_names"]
    if network is None and 2 * len(settings.get("hidden_dims") or ()) > len(weights):
        raise ValueError("its weights do not fit the network it describes")  # far more layers than weights
    shapes = {
        name: tensor.shape for name, tensor in TrainedModel(_sketch(settings, network), names).state_dict().items()
    }
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("its weights do not fit the network it describes")
    if not weights["temperature"] > 0:
        raise ValueError("its temperature makes no sense")


def _check_pixels(mean: Any, std: Any) -> None:
    numbers = all(value is None or (type(value) in (int, float) and math.isfinite(value)) for value in (mean, std))
    if not numbers or (std is not None and std <= 0):
        raise ValueError("its mean and std of the pixels make no sense")


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    for tensor in tensors.values():
        if tensor.is_complex() or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("it has weights that are larger than they are stored")
        if not tensor.isfinite().all():
            raise ValueError("it has weights that are not finite")


def _sketch(settings: dict[str, Any], network: NetworkFactory | None) -> nn.Module:
    """Builds the network without memory for its weights, or as it is if it cannot be built like that."""
    try:
        with torch.device("meta"):
            return build_network(settings, network)
    except Exception:
        if network is None:  # the MLP can always be built like that, if its settings make sense
            raise
        return build_network(settings, network)
