"""Write a trained model as a file that needs neither fmnist nor torch."""

import importlib.util
from collections.abc import Sequence

from fmnist.cli.plain import PlainParser, add_checkpoint_arguments
from fmnist.cli.start import find_start
from fmnist.errors import check
from fmnist.files import atomic_path, check_target, expand
from fmnist.inference.onnx import CHECKED, NEEDED, TOLERANCE, compare, to_onnx
from fmnist.inference.predictor import Predictor
from fmnist.runs.checkpoint import load_model

EXAMPLE = "fmnist export --output model.onnx"


def run(description: str, argv: Sequence[str]) -> None:
    """Runs ``export``, described in a few words, with what was typed after it.

    The file takes ``images``, uint8 (N, 1, 28, 28), and gives ``probabilities``, float32
    (N, num_classes), normalization and calibration included. Class names and origin are in its metadata.
    It is compared with the model before it is written.
    """
    parser = PlainParser("export", description, EXAMPLE)
    parser.add_argument("--output", type=expand, required=True, help="File to write, .onnx.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
    add_checkpoint_arguments(parser)
    path = parser.parse_args([*argv]).output
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    check(not missing, f"export needs {', '.join(missing)}: pip install 'fmnist[export]'")
    check(path.suffix == ".onnx", f"--output {path}: the name must end in .onnx")
    check_target(path, "--overwrite" in argv)
    start = find_start("export", [*argv])
    predictor = Predictor(load_model(start.path, start.checkpoint), start.checkpoint.get("conversion"))
    print(f"export: {start.path}")
    content = to_onnx(predictor, start.path)
    largest, agreeing = compare(predictor, content)
    print(f"onnxruntime on {CHECKED:,} images: largest difference {largest:.1e}, same class for {agreeing:.2%}")
    check(largest <= TOLERANCE, f"the file differs from the model by {largest:.1e}, more than {TOLERANCE}: not written")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        part.write_bytes(content)
    print(f"written: {path} ({len(content) / 1e6:.1f} MB)")
