"""Export of a trained model as a file that needs neither fmnist nor torch."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmnist import __version__
from fmnist.errors import UserError
from fmnist.files import digest_file
from fmnist.inference.predictor import Predictor
from fmnist.runs import folder as runs

NEEDED = ("onnx", "onnxscript", "onnxruntime")
CHECKED = 1000  # images on which the file is compared with the model
TOLERANCE = 1e-5


class _Probabilities(nn.Module):
    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        assert predictor.model.network is not None
        self.network = predictor.model.network
        self.temperature = predictor.model.temperature.item()

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(images) / self.temperature, dim=1)


def to_onnx(predictor: Predictor, checkpoint: Path) -> bytes:
    """Returns the content of an ONNX file.

    Args:
        predictor: The model.
        checkpoint: Where it was loaded from; noted in the metadata, with the metrics of its test.
    """
    import onnx

    example = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    batch = torch.export.Dim("N", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            _Probabilities(predictor).eval(),
            (example,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _metadata(predictor, checkpoint))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _metadata(predictor: Predictor, checkpoint: Path) -> dict[str, str]:
    metrics: dict[str, Any] = {}
    digest = digest_file(checkpoint)
    results = runs.results_folder(checkpoint) / "metrics.json"
    if results.is_file():
        found = json.loads(results.read_text(encoding="utf-8"))
        if found.get("digests", {}).get("checkpoint") == digest:  # the test may have been of another checkpoint
            metrics = {key: found[key] for key in ("accuracy", "nll", "brier", "ece", "num_samples")}
    return {
        "class_names": json.dumps(predictor.class_names),
        "metrics": json.dumps(metrics),
        "fmnist_version": __version__,
        "checkpoint_sha256": digest,
    }


def compare(predictor: Predictor, content: bytes) -> tuple[float, float]:
    """Runs an ONNX file on made-up images, from empty to full, and compares it with the model.

    Returns:
        The largest difference between two probabilities, and the share of images with the same class.
    """
    import onnxruntime

    random = np.random.default_rng(0)
    strength = random.random((CHECKED, 1, 1, 1))
    images = (random.random((CHECKED, 1, 28, 28)) ** (4 * strength) * strength * 255).astype(np.uint8)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": images})[0]
    except Exception as error:
        raise UserError(f"onnxruntime cannot run the file: {error}") from error
    expected = predictor.probabilities(torch.from_numpy(images)).numpy()
    return float(np.abs(found - expected).max()), float((found.argmax(1) == expected.argmax(1)).mean())
