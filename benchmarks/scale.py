"""Time of an epoch on 1, 2 and 4 processes, each with one thread, for the same batches.

    python benchmarks/scale.py [--processes 1 2 4] [--repeats 3] [options of fit]

Runs `fit` as a user does, the numbers of processes in turn, and reads the times in its ``times.csv``,
without that of the first epoch. Only the ratios are claims; run it on an otherwise idle machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = Path(__file__).parent.parent / "configs" / "mlp.yaml"
PLAIN = ("--data.batch_size=128", "--model.normalization=none", "--model.mixup=0", "--data.shift=0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default 3)")
    args, options = parser.parse_known_args()
    seconds: dict[int, list[float]] = {count: [] for count in args.processes}
    for _ in range(args.repeats):
        for count in args.processes:
            seconds[count] += epochs(count, options)
    print("| processes | s / epoch | images / s | for each process | relative |")
    print("| --- | --- | --- | --- | --- |")
    first = 55_000 / statistics.median(seconds[args.processes[0]]) / args.processes[0]
    for count, values in seconds.items():
        rate = 55_000 / statistics.median(values)
        share = rate / count
        print(f"| {count} | {statistics.median(values):.2f} | {rate:,.0f} | {share:,.0f} | {share / first:.2f} |")


def epochs(count: int, options: list[str]) -> list[float]:
    """Trains three epochs and returns the seconds of the second and the third."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--config", CONFIG, "--trainer.default_root_dir", folder]
        words += [
            "--trainer.accelerator",
            "cpu",
            "--trainer.devices",
            count,
            "--trainer.max_epochs",
            3,
            *PLAIN,
            *options,
        ]
        command = [sys.executable, "-m", "fmnist", "fit", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        (times,) = Path(folder).rglob("times.csv")
        return [float(line.split(",")[1]) for line in times.read_text().splitlines()[2:]]


if __name__ == "__main__":
    main()
