"""A trained model as one HTML file: it needs no network, no server and no other file."""

import base64
import json
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import torch
from torch import nn

from fmnist.errors import check
from fmnist.inference.predictor import Predictor
from fmnist.inference.predictor import compare as compare_with_model
from fmnist.model.mlp import ACTIVATIONS, MLP, PixelNormalization
from fmnist.model.network import IMAGE_SHAPE, describe_shape

TOLERANCE = 0.01  # of a probability: weights have 11 bits in the page
HERE = files("fmnist.inference")  # the package may be in a zip file
CLOTHES = 10  # images in examples.bin, one of each class of Fashion-MNIST
NAMES = ("T-shirt/top", "Ankle boot")  # the first and the last of its classes


def to_page(predictor: Predictor, origin: dict[str, Any]) -> str:
    """Returns the content of the page.

    Args:
        predictor: The model.
        origin: For the footer, what ``describe_origin`` returned.

    Raises:
        UserError: The page cannot compute the network, or cannot convert pictures as in training.
    """
    network, transform = predictor.model.network, predictor.description.get("transform")
    shape, name = predictor.model.image_shape, type(network).__name__
    check(isinstance(network, MLP), f"the page cannot compute {name}: give --output FILE.onnx")
    fits = shape == IMAGE_SHAPE and predictor.conversion != "crop"
    check(fits, f"the page cannot convert pictures to {describe_shape(shape)} pixels: give --output FILE.onnx")
    check(not transform, f"the page cannot convert pictures by the transform {transform}: give --output FILE.onnx")
    temperature = predictor.model.temperature.item()
    described = {**_describe(predictor), **_fold(network), "typicality": _typicality(predictor)}
    return render({"origin": origin, "temperature": temperature, **described})


def render(model: dict[str, Any]) -> str:
    """Renders the template for a description of a model."""
    template = jinja2.Environment(autoescape=True).from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
    data = json.dumps(model).replace("<", "\\u003c")  # no text can end the script that it is in
    return template.render(data=data, names=model["classes"])


def _describe(predictor: Predictor) -> dict[str, Any]:
    names = list(predictor.class_names)
    known = len(names) == CLOTHES and (names[0], names[-1]) == NAMES
    return {
        "classes": names,
        "conversion": predictor.conversion,
        "examples": _encode((HERE / "examples.bin").read_bytes()) if known else "",
    }


def _typicality(predictor: Predictor) -> dict[str, Any] | None:
    """Describes the model of typicality; None if there is none."""
    model = predictor.model.typicality
    if model is None:
        return None
    state = {name: value.cpu().numpy() for name, value in model.named_buffers()}

    def subspace(name: str) -> dict[str, str]:
        return {part: _encode(state[f"{name}_{part}"].astype("<f4").tobytes()) for part in ("gain", "offset", "axes")}

    numbers = {name: state[name].tolist() for name in ("centre", "spread")}
    levels = _encode(state["levels"].astype("<f4").tobytes())
    return {"pixels": subspace("pixels"), "features": subspace("features"), "levels": levels, **numbers}


def _fold(network: nn.Module) -> dict[str, Any]:
    """Describes an MLP as dense layers, with batch normalization folded in."""
    layers: list[dict[str, Any]] = []
    activation, scale, offset = "relu", 1.0, 0.0
    for module in network:  # type: ignore[attr-defined]
        if isinstance(module, PixelNormalization):
            ((scale, offset),) = module.steps
        elif isinstance(module, nn.Linear):
            given: torch.Tensor | None = module.bias  # which torch's types forget
            bias = torch.zeros(module.out_features) if given is None else given
            layers.append({"weights": module.weight.detach().cpu().double(), "bias": bias.detach().cpu().double()})
        elif isinstance(module, nn.BatchNorm1d):
            mean, variance = module.running_mean, module.running_var
            assert mean is not None
            assert variance is not None
            factor = (module.weight.detach().double() / (variance.double() + module.eps).sqrt()).cpu()
            layers[-1]["weights"] *= factor[:, None]
            layers[-1]["bias"] = (layers[-1]["bias"] - mean.cpu()) * factor + module.bias.detach().cpu()
        else:
            activation = next((name for name, kind in ACTIVATIONS.items() if type(module) is kind), activation)
    return {
        "scale": scale,
        "offset": offset,
        "activation": activation,
        "layers": [
            {
                "inputs": layer["weights"].shape[1],
                "outputs": layer["weights"].shape[0],
                # (inputs, outputs), so that a pixel that is black costs nothing
                "weights": _encode(layer["weights"].T.contiguous().numpy().astype("<f2").tobytes()),
                "bias": _encode(layer["bias"].numpy().astype("<f4").tobytes()),
            }
            for layer in layers
        ],
    }


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def compare(predictor: Predictor, page: str) -> tuple[float, float]:
    """Compares what the page computes, with the weights that are in it, with the model; see ``predictor.compare``."""
    model = json.loads(page.partition('id="model">')[2].partition("</script>")[0])
    activate = ACTIVATIONS[model["activation"]]()

    def compute(images: np.ndarray) -> np.ndarray:
        values = images.reshape(len(images), -1) * np.float32(model["scale"]) + np.float32(model["offset"])
        for number, layer in enumerate(model["layers"]):
            weights = np.frombuffer(base64.b64decode(layer["weights"]), "<f2").astype(np.float32)
            bias = np.frombuffer(base64.b64decode(layer["bias"]), "<f4")
            values = values @ weights.reshape(layer["inputs"], layer["outputs"]) + bias
            if number < len(model["layers"]) - 1:
                values = activate(torch.from_numpy(values)).numpy()
        return torch.from_numpy(values / np.float32(model["temperature"])).softmax(1).numpy()

    return compare_with_model(predictor, compute)
