"""Mean and standard deviation of a configuration over seeds.

    python benchmarks/seeds.py configs/mlp.yaml --seeds 5 [any option of fit]

Each seed is trained and tested by the commands that a user types, in a folder of its own under
``lightning_logs/seeds``. Finished seeds are kept: run it again to continue, or to add seeds. The
results are printed and saved as ``results.json`` in that folder.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

from fmnist.runs.tables import read_metrics

TESTED = ("acc", "loss", "nll", "brier", "ece", "ece_uncalibrated")


def main() -> None:
    """Trains, tests, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="use the seeds 0 to N - 1 (default 5)")
    parser.add_argument("--name", help="name of the folder (default: that of the configuration)")
    parser.add_argument("--no_test", action="store_true", help="leave the test set alone, as a search must")
    args, options = parser.parse_known_args()
    folder = Path("lightning_logs/seeds") / (args.name or args.config.stem)
    refuse_other_options(folder, [str(args.config), *options])
    runs = [
        run_seed(args.config, seed, folder / f"seed_{seed}", options, not args.no_test) for seed in range(args.seeds)
    ]
    summary = summarize(runs)
    (folder / "results.json").write_text(json.dumps({"options": options, "runs": runs, "summary": summary}, indent=2))
    print(f"\n{args.config} {' '.join(options)}")
    for run in runs:
        print(
            "  "
            + "  ".join(
                f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in run.items()
            )
        )
    for key, row in summary.items():
        print(
            f"{key}: {row['mean']:.4f} ± {row['std']:.4f} (min {row['min']:.4f}, max {row['max']:.4f}, n = {len(runs)})"
        )


def refuse_other_options(folder: Path, options: list[str]) -> None:
    """Ends the program if results are there that were made with other options."""
    record = folder / "options.json"
    if record.exists() and json.loads(record.read_text()) != options:
        before = " ".join(json.loads(record.read_text()))
        sys.exit(f"{folder} holds results of: {before}. Give another --name, or remove the folder.")
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(options))


def run_seed(config: Path, seed: int, folder: Path, options: list[str], test: bool) -> dict[str, float]:
    """Trains and tests one seed, unless that has been done, and returns its metrics."""
    result = folder / "result.json"
    if not result.exists():
        root = ["--trainer.default_root_dir", str(folder)]
        started = ["--ckpt_path", "last"] if list(folder.glob("*/version_*")) else []
        call("fit", "--config", config, *options, f"--seed_everything={seed}", *root, *started)
        if test:
            call("test", *root)
        run = sorted(folder.glob("lightning_logs/version_*"))[-1]
        found: dict[str, float] = {"seed": seed}
        rows = list(csv.DictReader((run / "metrics.csv").open()))
        validated = [row for row in rows if row["val/acc"]]
        if validated:
            best = max(validated, key=lambda row: float(row["val/acc"]))
            found |= {key: float(best[key]) for key in ("val/acc", "val/ece")}
        if test:
            metrics = read_metrics(run / "test" / "metrics.json")
            found |= {f"test/{key}": metrics[key] for key in TESTED}
        result.write_text(json.dumps(found))
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def call(*words: object) -> None:
    """Runs a command of fmnist, and stops everything if it fails."""
    subprocess.run([sys.executable, "-m", "fmnist", *map(str, words)], check=True)


def summarize(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Returns mean, sample standard deviation, minimum and maximum of every metric."""
    summary = {}
    for key in [key for key in runs[0] if key != "seed"]:
        values = [run[key] for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        summary[key] = {"mean": statistics.mean(values), "std": std, "min": min(values), "max": max(values)}
    return summary


if __name__ == "__main__":
    main()
