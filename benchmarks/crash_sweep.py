"""What a sweep promises when its processes die, tried with real ones.

    python benchmarks/crash_sweep.py [--points 12] [--kills 20] [--seed 0] [--root data] [options of fit]

A grid of small trainings is swept once undisturbed. Then three processes sweep it in one folder, and at random
moments a sweep, a training or both of a trial are killed (SIGKILL); a sweep that was killed is started again.
Prints what was killed; exits with 1 unless every point has been finished exactly once, with results that equal
the undisturbed ones bit for bit (of a checkpoint every value counts, not how it is packed) and nothing is left half.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from crash import RESULTS, digest

from fmnist.runs.folder import newest_run

CONFIG = Path(__file__).parent.parent / "configs" / "mlp.yaml"
LITTLE = ("--model.hidden_dims=[32]", "--trainer.max_epochs=2", "--trainer.limit_train_batches=40")
FOLDER = Path("lightning_logs/points")


def main() -> int:
    """Sweeps twice and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=12, help="trainings of the grid (default 12)")
    parser.add_argument("--kills", type=int, default=20, help="how often something is killed (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and of what is killed (default 0)")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data set (default data)")
    args, options = parser.parse_known_args()
    if not any(option.startswith("--data.source") for option in options):
        options.append(f"--data.source.root={args.root.resolve()}")
    options = [*LITTLE, *options]
    with tempfile.TemporaryDirectory() as quiet, tempfile.TemporaryDirectory() as wild:
        for folder in (quiet, wild):
            grid = {"config": str(CONFIG), "search": {"seed_everything": list(range(args.points))}}
            (Path(folder) / "points.yaml").write_text(json.dumps(grid))  # JSON is YAML
        started = time.monotonic()
        assert start(Path(quiet), options).wait() == 0, (Path(quiet) / "output.txt").read_text()
        seconds = time.monotonic() - started
        killed = disturb(Path(wild), options, args.kills, seconds / args.kills / 2, args.seed)
        problems = differences(Path(wild) / FOLDER, Path(quiet) / FOLDER, args.points)
    print(f"{args.points} points, three sweeps; killed: {dict(killed)}; {problems or 'all finished once, bit for bit'}")
    return int(bool(problems))


def start(folder: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Starts a sweep in a process group of its own."""
    command = [sys.executable, "-m", "fmnist", "sweep", "points.yaml", *options]
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)


def disturb(folder: Path, options: list[str], kills: int, seconds: float, seed: int) -> Counter[str]:
    """Sweeps with three processes and kills at random moments, so many seconds apart; returns what was killed."""
    draw = random.Random(seed)
    sweeps = [start(folder, options) for _ in range(3)]
    killed: Counter[str] = Counter()
    while sum(killed.values()) < kills and any(sweep.poll() is None for sweep in sweeps):
        time.sleep(draw.uniform(0, 2 * seconds))
        what = draw.choice(("sweep", "fit", "both"))
        index = draw.randrange(3)
        fits = children(sweeps[index].pid) if what == "both" else trainings(folder, sweeps)
        if what != "fit" and sweeps[index].poll() is None:
            sweeps[index].kill()
            sweeps[index].wait()
            sweeps[index] = start(folder, options)
            killed[what] += 1
        if what != "sweep" and fits:
            with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                os.kill(draw.choice(fits), signal.SIGKILL)
                killed["fit"] += what == "fit"
    codes = [sweep.wait() for sweep in sweeps]
    assert codes == [0, 0, 0], f"sweeps ended with {codes}: {(folder / 'output.txt').read_text()}"
    return killed


def trainings(folder: Path, sweeps: list[subprocess.Popen[bytes]]) -> list[int]:
    """Returns the processes that train in the folder of some sweeps, whoever has started them."""
    others = {sweep.pid for sweep in sweeps}
    return [pid for pid in processes() if pid not in others and read(pid, "cwd") == str(folder.resolve())]


def children(parent: int) -> list[int]:
    """Returns the processes that a process has started."""
    return [pid for pid in processes() if f"\nPPid:\t{parent}\n" in read(pid, "status")]


def processes() -> list[int]:
    """Returns the numbers of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def read(pid: int, name: str) -> str:
    """Reads what the system says of a process; nothing once it is gone."""
    path = Path(f"/proc/{pid}/{name}")
    try:
        return str(path.readlink()) if name == "cwd" else path.read_text()
    except OSError:
        return ""


def differences(found: Path, wanted: Path, points: int) -> list[str]:
    """Compares the results of all trials, by what they tried."""
    wild, quiet = results(found), results(wanted)
    problems = [f"{len(wild)} trials"] if len(wild) != points else []
    for point, files in quiet.items():
        other = wild.get(point, {})
        problems += [f"{name} of {point.strip()} differs" for name in files if other.get(name) != files[name]]
    half = list(found.rglob(".*"))
    return problems + [f"{path.relative_to(found)} is left" for path in half]


def results(folder: Path) -> dict[str, dict[str, str]]:
    """Returns what each trial has reached, by what it tried."""
    found = {}
    for trial in folder.glob("trial_*"):
        run = newest_run(trial) or trial
        files = [trial / "result.json", *(run / name for name in RESULTS)]
        found[(trial / "trial.json").read_text()] = {str(file.relative_to(trial)): digest(file) for file in files}
    return found


if __name__ == "__main__":
    sys.exit(main())
