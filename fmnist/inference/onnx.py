"""Export of a trained model as a file that needs neither fmnist nor torch."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from fmnist import __version__
from fmnist.errors import UserError, check
from fmnist.files import digest_file
from fmnist.inference.predictor import Predictor
from fmnist.inference.predictor import compare as compare_with_model
from fmnist.model.trained import TrainedModel
from fmnist.runs.tables import read_known_test

NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5
KEPT = ("acc", "nll", "brier", "ece", "num_samples")  # of the metrics of a test, in the metadata


def to_onnx(predictor: Predictor, checkpoint: Path) -> bytes:
    """Returns the content of an ONNX file; it maps ``images``, uint8 (N, C, H, W), to ``probabilities``.

    Where it is available, ``typicality`` is a second output.

    Args:
        predictor: The model.
        checkpoint: Where it was loaded from; it is in the metadata, with the metrics of its test.

    Raises:
        UserError: The network takes only as many images as it was exported with.
    """
    import onnx

    known = predictor.model.typicality is not None
    example = torch.zeros(2, *predictor.model.image_shape, dtype=torch.uint8)
    batch = torch.export.Dim("N", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            _Answers(predictor.model),
            (example,),
            input_names=["images"],
            output_names=["probabilities", "typicality"][: 1 + known],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    (count, *_) = model.graph.input[0].type.tensor_type.shape.dim
    fixed = f"the network fixes the number of images at {count.dim_value}: in its forward, take x.shape[0] for len(x)"
    check(count.HasField("dim_param"), fixed)
    onnx.helper.set_model_props(model, _metadata(predictor, checkpoint))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Answers(torch.nn.Module):
    """A model that returns its probabilities and, where it is available, the typicality."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model.predict(images)
        return (output.probabilities,) if output.typicality is None else (output.probabilities, output.typicality)


def _metadata(predictor: Predictor, checkpoint: Path) -> dict[str, str]:
    metrics = read_known_test(checkpoint)
    return {
        "class_names": json.dumps(predictor.class_names),
        "conversion": json.dumps(predictor.description),
        "metrics": json.dumps({key: metrics[key] for key in KEPT if isinstance(metrics.get(key), int | float)}),
        "fmnist_version": __version__,
        "checkpoint_sha256": digest_file(checkpoint),
    }


def compare(predictor: Predictor, content: bytes) -> tuple[float, float]:
    """Runs an ONNX file and compares it with the model; see ``predictor.compare``."""
    import onnxruntime

    def compute(images: np.ndarray) -> np.ndarray:
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            return np.asarray(session.run(None, {"images": images})[0])
        except Exception as error:
            raise UserError(f"onnxruntime cannot run the file: {error}") from error

    return compare_with_model(predictor, compute)
