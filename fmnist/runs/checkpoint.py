"""Checkpoints, read without running anything in them."""

import inspect
import json
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmnist.errors import UserError, check
from fmnist.model.trained import NetworkFactory, TrainedModel, build_network, import_network
from fmnist.runs.settings import UntrustedError, drop_retired, find_foreign

Checkpoint = dict[str, Any]
MAX_ENTRIES = 10_000  # of an archive; a checkpoint has one for each tensor
KNOWN = {"class_names", "lr_schedule", "mean", "std"}  # settings that the model of every checkpoint of ours has


def read_checkpoint(
    path: Path, asked: Collection[str] = (), network: NetworkFactory | None = None, to_continue: bool = False
) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: An existing file.
        asked: Code that the user has named, which is trusted.
        network: The class or function that the network was made by, if it is not the MLP.
        to_continue: The optimizer will be used as well, so it must be one that is trusted.

    Returns:
        What Lightning saved; at least ``state_dict``, ``hyper_parameters`` and ``epoch``.

    Raises:
        UserError: The file is damaged, is no checkpoint, or holds something other than plain values.
        UntrustedError: It names code that nobody has named.
    """
    checkpoint = read_values(path)
    settings = checkpoint["hyper_parameters"]
    used = {name: settings.get(name) for name in ("network", "optimizer")[: 1 + to_continue]}
    foreign = find_foreign("model", {} if network else used, asked)
    if foreign:
        raise UntrustedError(path, foreign)
    with _one_line(path):
        check_weights(checkpoint["state_dict"], settings, network)
    return checkpoint


def read_values(path: Path) -> Checkpoint:
    """Loads a checkpoint as ``read_checkpoint`` does, without a look at its network.

    Raises:
        UserError: The file is damaged, is no checkpoint, or holds something other than plain values.
    """
    with _one_line(path):
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        settings = json.loads(json.dumps(checkpoint["hyper_parameters"]))  # plain values, or an error
        known = settings.keys() >= KNOWN and isinstance(checkpoint["epoch"], int) and checkpoint["epoch"] >= 0
    check(known, f"{path} is the checkpoint of another project: give another --ckpt_path")
    return {**checkpoint, "hyper_parameters": drop_retired("model", settings)}


def load_model(path: Path, checkpoint: Checkpoint, network: NetworkFactory | None = None) -> TrainedModel:
    """Builds the model of a checkpoint, with its weights, ready to answer.

    Args:
        path: Where the checkpoint was read.
        checkpoint: What ``read_checkpoint`` returned.
        network: As there.
    """
    settings = checkpoint["hyper_parameters"]
    model = TrainedModel(_build(settings, network), settings["class_names"])
    with _one_line(path):
        model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


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


def _check_archive(path: Path) -> None:
    """Refuses a file that would become much larger in memory; torch never compresses."""
    with zipfile.ZipFile(path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    if sum(sizes) > path.stat().st_size or len(sizes) > MAX_ENTRIES:
        raise ValueError("it is compressed")


def check_weights(weights: dict[str, Tensor], settings: dict[str, Any], network: NetworkFactory | None = None) -> None:
    """Refuses weights that are not those of the network, before one of the size they claim is built.

    Raises:
        ValueError: They do not fit, or are not finite.
    """
    names = settings["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its classes are no names")
    if len(settings.get("hidden_dims") or ()) > len(weights):
        raise ValueError("its weights do not fit the network it describes")  # far more layers than weights
    for tensor in weights.values():
        if tensor.is_complex() or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("it has weights that are larger than they are stored")
        if not tensor.isfinite().all():
            raise ValueError("it has weights that are not finite")
    shapes = {
        name: tensor.shape for name, tensor in TrainedModel(_sketch(settings, network), names).state_dict().items()
    }
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("its weights do not fit the network it describes")
    if not weights["temperature"] > 0:
        raise ValueError("its temperature makes no sense")


def _sketch(settings: dict[str, Any], network: NetworkFactory | None) -> nn.Module:
    """Builds the network without memory for its weights, or as it is if it cannot be built like that."""
    try:
        with torch.device("meta"):
            return _build(settings, network)
    except Exception:
        if not settings.get("network"):  # what is not the user's own code can be, or is hostile
            raise
        return _build(settings, network)


def _build(settings: dict[str, Any], network: NetworkFactory | None) -> nn.Module:
    described = settings.get("network")
    made: Any = network  # a class or a function
    if inspect.isclass(made) and isinstance(described, dict):
        made = partial(made, **described["init_args"])
    return build_network(settings, made or import_network(described))
