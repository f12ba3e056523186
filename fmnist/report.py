"""What a test leaves behind."""

import json
from pathlib import Path
from typing import Any

from fmnist.atomic import atomic_path
from fmnist.runs import run_folder


def write_metrics(results: dict[str, float], checkpoint: Path, epoch: int) -> Path:
    """Writes ``test/metrics.json`` into the run of a checkpoint, or beside a checkpoint without one.

    Args:
        results: The metrics that the test step logged.
        checkpoint: The checkpoint that was tested.
        epoch: Epochs that it had been trained for.

    Returns:
        The file written.
    """
    count = round(results["test/num_samples"])
    metrics: dict[str, Any] = {
        "accuracy": round(results["test/acc"] * count) / count,
        "loss": round(results["test/loss"], 6),
        "num_samples": count,
        "checkpoint": str(checkpoint),
        "epoch": epoch,
    }
    path = (run_folder(checkpoint) or checkpoint.parent) / "test" / "metrics.json"
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as part:
        part.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return path
