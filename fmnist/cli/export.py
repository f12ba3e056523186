"""Write a trained model as a file that needs neither fmnist nor torch."""

import importlib.util
from pathlib import Path

from fmnist.errors import check
from fmnist.files import atomic_path, check_target
from fmnist.inference.onnx import CHECKED, NEEDED, TOLERANCE, compare, to_onnx
from fmnist.inference.predictor import load
from fmnist.runs import folder as runs


def export(output: str, ckpt_path: str | None = None, overwrite: bool = False, default_root_dir: str = ".") -> None:
    """Writes a trained model as ONNX, and compares the file with the model.

    The file takes ``images``, uint8 (N, 1, 28, 28), and gives ``probabilities``, float32
    (N, num_classes), normalization and calibration included. Class names and origin are in its metadata.

    Args:
        output: File to write, .onnx.
        ckpt_path: A checkpoint's path, or 'best' or 'last' of the newest run.
        overwrite: Replace the file if it exists.
        default_root_dir: Folder that holds lightning_logs.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    check(not missing, f"export needs {', '.join(missing)}: pip install 'fmnist[export]'")
    path = Path(output)
    check(path.suffix == ".onnx", f"--output {path}: the name must end in .onnx")
    check_target(path, overwrite)
    checkpoint = runs.find_checkpoint(ckpt_path, Path(default_root_dir))
    predictor = load(checkpoint)
    print(f"export: {checkpoint}")
    content = to_onnx(predictor, checkpoint)
    largest, agreeing = compare(predictor, content)
    print(f"onnxruntime on {CHECKED:,} images: largest difference {largest:.1e}, same class for {agreeing:.2%}")
    check(largest <= TOLERANCE, f"the file differs from the model by {largest:.1e}, more than {TOLERANCE}: not written")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        part.write_bytes(content)
    print(f"written: {path} ({len(content) / 1e6:.1f} MB)")
