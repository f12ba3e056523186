"""Write a trained model as another file: ONNX, a page to show it with, or one that anybody may read without a risk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmnist import __version__
from fmnist.cli.console import say
from fmnist.cli.options import PlainParser, add_checkpoint_arguments, add_transform
from fmnist.cli.resolve import Start, find_start
from fmnist.errors import check
from fmnist.files import check_target, expand, write_whole
from fmnist.inference import onnx, page
from fmnist.inference.onnx import NEEDED, to_onnx
from fmnist.inference.predictor import CHECKED, Predictor, compare
from fmnist.names import check_installed
from fmnist.runs import tensor_file
from fmnist.runs.checkpoint import load_model
from fmnist.runs.tables import percent, read_known_test

EXAMPLE = "fmnist export --output model.onnx"


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``export``, with its one-line description and its arguments.

    An ONNX file takes ``images``, uint8 (N, C, H, W), and gives ``probabilities``, float32
    (N, num_classes), normalization and calibration included. Class names and origin are in its metadata.
    A page computes by itself. A .safetensors is a checkpoint to hand around: --ckpt_path takes it, and nothing
    in such a file can run. Each is compared with the model before it is written.
    """
    parser = PlainParser("export", description, EXAMPLE)
    parser.add_argument("--output", type=expand, required=True, help="File to write, .onnx, .html or .safetensors.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
    add_checkpoint_arguments(parser)
    add_transform(parser)
    options = parser.parse_args([*argv])
    path = options.output
    *some, last = MAKERS
    check(path.suffix in MAKERS, f"--output {path}: the name must end in {', '.join(some)} or {last}")
    if path.suffix == ".onnx":
        check_installed("export", NEEDED, "export")
    check_target(path, options.overwrite)
    start = find_start("export", [*argv])
    model = load_model(start.path, start.checkpoint, start.network)
    predictor = Predictor(model, start.checkpoint["conversion"], start.transform)
    say(f"export: {start.path}")
    content = MAKERS[path.suffix](predictor, start)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    print(f"written: {path} ({len(content) / 1e6:.1f} MB)")


def _onnx(predictor: Predictor, start: Start) -> bytes:
    content = to_onnx(predictor, start.path)
    _check("onnxruntime", onnx.TOLERANCE, *onnx.compare(predictor, content))
    return content


def _page(predictor: Predictor, start: Start) -> bytes:
    content = page.to_page(predictor, describe_origin(start.path))
    _check("the page's weights", page.TOLERANCE, *page.compare(predictor, content))
    return content.encode()


def _safetensors(predictor: Predictor, start: Start) -> bytes:
    content = tensor_file.pack(start.checkpoint)
    again = load_model(start.path, tensor_file.unpack(content), start.network)

    def compute(images: np.ndarray) -> np.ndarray:
        return again.predict_in_batches(torch.from_numpy(images)).probabilities.numpy()

    _check("the file's content", 0, *compare(predictor, compute))
    return content


def _check(what: str, tolerance: float, largest: float, agreeing: float) -> None:
    print(f"checked {what} on {CHECKED:,} images: same class for {agreeing:.2%}, probabilities within {largest:.1e}")
    check(largest <= tolerance, f"the file differs from the model by {largest:.1e}, more than {tolerance}: not written")


def describe_origin(checkpoint: Path) -> dict[str, Any]:
    """Returns the version, and of the checkpoint's test, if there is one, accuracy and number of images."""
    test = read_known_test(checkpoint)
    measured = {"accuracy": percent(test["acc"]), "images": f"{test['num_samples']:,}"} if test else {}
    return {"version": __version__, **measured}


MAKERS = {".onnx": _onnx, ".html": _page, tensor_file.SUFFIX: _safetensors}
