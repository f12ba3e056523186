"""The reference recipe, epoch by epoch, beside its published output.

    python benchmarks/quickstart.py [--seeds 5] [any option of fit]

Trains ``configs/quickstart.yaml`` with one checkpoint kept per epoch, runs ``test`` on each of them
afterwards, and prints mean ± std over the seeds beside the published table. The test set is only
reported here: nothing is chosen by it. Finished seeds are kept in ``lightning_logs/quickstart``.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from fmnist.files import read_json

# Accuracy and average loss on the test set after each epoch, as published with the recipe.
PUBLISHED = [(0.473, 2.1499), (0.541, 1.8640), (0.603, 1.4950), (0.637, 1.2357), (0.650, 1.0742)]
CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"


def main() -> None:
    """Trains, tests and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="use the seeds 0 to N - 1 (default 5)")
    args, options = parser.parse_known_args()
    folder = Path("lightning_logs/quickstart")
    runs = [run_seed(seed, folder / f"seed_{seed}", options) for seed in range(args.seeds)]
    print("\nepoch  accuracy: published        ours (std)   loss: published        ours (std)")
    for epoch, (accuracy, loss) in enumerate(PUBLISHED):
        values = {key: [run[epoch][key] for run in runs] for key in ("acc", "loss")}
        (acc, acc_std), (nll, nll_std) = ((statistics.mean(v), spread(v)) for v in values.values())
        print(f"{epoch + 1:5}  {accuracy:19.1%}  {acc:8.1%} ({acc_std:.1%})  {loss:15.4f}  {nll:8.4f} ({nll_std:.4f})")


def spread(values: list[float]) -> float:
    """Returns the sample standard deviation; of a single value none."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def call(*words: object) -> None:
    """Runs a command of fmnist, and stops everything if it fails."""
    subprocess.run([sys.executable, "-m", "fmnist", *map(str, words)], check=True)


def run_seed(seed: int, folder: Path, options: list[str]) -> list[dict[str, float]]:
    """Trains one seed and tests every epoch, unless that has been done."""
    result = folder / "result.json"
    if not result.exists():
        keep = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
        each = ["save_top_k=-1", f"dirpath={folder / 'epochs'}", "filename={epoch}", "enable_version_counter=false"]
        where = ["--trainer.default_root_dir", folder, keep, *(f"--trainer.callbacks.{option}" for option in each)]
        call("fit", "--config", CONFIG, f"--seed_everything={seed}", *where, *options)
        rows = []
        for epoch in range(len(PUBLISHED)):
            call("test", "--ckpt_path", folder / "epochs" / f"epoch={epoch}.ckpt")
            rows.append(read_json(folder / "epochs" / "test" / "metrics.json"))
        result.write_text(json.dumps(rows))
    return json.loads(result.read_text())  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
