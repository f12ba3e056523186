"""What the start of each command takes, and whose imports take it.

    python benchmarks/start.py [--repeats 5] [--rows fit "predict --images"] [--json FILE]

Each row is a process by itself, in turns, on a run that is trained first: `fit` up to its first step, `serve` until it
listens, the others to their end. A module's time is its own, without that of what it imports (`-X importtime`, which
slows the start by a few percent), and is counted where the module belongs, whoever has asked for it: torchvision and
Lightning import parts of torch that nothing else needs. Medians; only the ratio of the two last lines is a claim.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

FIRST_STEP = (
    "import os, sys; from fmnist import ImageClassifier; from fmnist.__main__ import main;"
    "ImageClassifier.on_train_batch_end = lambda *_: os._exit(0); main(sys.argv[1:])"
)
LOAD = "import sys; from fmnist import load; load(sys.argv[1])"
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
WHOLE = f"import sys; from fmnist.__main__ import main; main(sys.argv[1:]); {PEAK}"
TOP = Path(__file__).parent.parent
OWNERS = {  # packages by column; all others, and Python's own, are "other"
    "fmnist": ("fmnist",),
    "torch": ("torch", "torchgen", "functorch"),
    "torchvision": ("torchvision",),
    "lightning": ("lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"),
}


def rows(root: str, run: str, folder: str) -> dict[str, list[str]]:
    """Returns the arguments of Python for each row.

    Args:
        root: Folder of the data set.
        run: A trained run.
        folder: A folder to write to.
    """
    data, trained = ["--data.source.root", root], ["--ckpt_path", run]
    fit = ["fit", "--config", str(TOP / "configs/mlp.yaml"), *data, "--trainer.default_root_dir", folder]
    return {
        "import torch": ["-c", "import torch"],
        "load": ["-c", LOAD, run],
        "import lightning, torchvision": ["-c", f"import lightning, torchvision; {PEAK}"],
        "fit": ["-c", FIRST_STEP, *fit],
        "fit, an epoch": ["-c", WHOLE, *fit, "--trainer.max_epochs", "1"],
        "validate": ["-m", "fmnist", "validate", *trained],
        "test": ["-m", "fmnist", "test", *trained],
        "predict": ["-m", "fmnist", "predict", *trained, "--output", "-"],
        "predict --images": ["-m", "fmnist", "predict", *trained, "--images", str(TOP / "docs/boot.png")],
        "prepare": ["-m", "fmnist", "prepare", *data],
        "export": ["-m", "fmnist", "export", *trained, "--output", f"{folder}/page.html", "--overwrite"],
        "serve": ["-m", "fmnist", "serve", *trained, "--port", "0"],
        "compare": ["-m", "fmnist", "compare", str(Path(run).parent)],
        "sweep --help": ["-m", "fmnist", "sweep", "--help"],
        "audit --help": ["-m", "fmnist", "audit", "--help"],
        "fit --help": ["-m", "fmnist", "fit", "--help"],
        "--version": ["-m", "fmnist", "--version"],
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes of each row (default 5)")
    parser.add_argument("--rows", nargs="+", choices=rows("", "", ""), metavar="NAME", help="only these rows")
    parser.add_argument("--ckpt_path", help="a run to use, instead of one that is trained for an epoch")
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    root = str(Path(args.root).resolve())
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(args.ckpt_path or f"{folder}/lightning_logs/version_0").resolve())
        every = rows(root, run, folder)
        if not args.ckpt_path:
            start(every["fit, an epoch"])
        chosen = {name: every[name] for name in args.rows or every}
        turns = [{name: start(words) for name, words in chosen.items()} for _ in range(args.repeats)]
    found = {name: summarize([turn[name] for turn in turns]) for name in chosen}
    print_table(found)
    if {"import torch", "load"} <= found.keys():
        ratio = statistics.median(turn["load"]["seconds"] / turn["import torch"]["seconds"] for turn in turns)
        print(f"\nload / import torch: {ratio:.2f}")
    if {"import lightning, torchvision", "fit, an epoch"} <= found.keys():
        peak, bare = (found[name]["peak"] for name in ("fit, an epoch", "import lightning, torchvision"))
        print(f"peak memory of fit beyond the imports: {peak - bare:.0f} MB (imports {bare:.0f} MB)")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


def start(words: list[str]) -> dict[str, Any]:
    """Runs a process, up to the line in which a server prints its address.

    Returns:
        Its ``seconds``, what it ``printed``, and the ``imports``: microseconds of each module.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-X", "importtime", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("serve: "):
                    break
            else:
                process.wait()
            seconds = time.perf_counter() - began
            if process.poll() is None:
                process.terminate()
            code = process.wait()
        log.seek(0)
        assert code in (0, 143), (words, log.read()[-500:])  # SIGTERM ends a server
        log.seek(0)
        cells = [line.removeprefix("import time:").split("|") for line in log if line.startswith("import time:")]
    imports = {module.strip(): int(own) for own, _, module in cells[1:]}
    return {"seconds": seconds, "printed": "".join(lines), "imports": imports}


def summarize(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the medians of a row in seconds, the modules that it has imported, and its peak memory in MB."""
    shares = [Counter(dict.fromkeys((*OWNERS, "other"), 0)) for _ in turns]
    for share, turn in zip(shares, turns, strict=True):
        for module, own in turn["imports"].items():
            share[owner(module)] += own
    found: dict[str, Any] = {"seconds": statistics.median(turn["seconds"] for turn in turns)}
    found |= {name: statistics.median(share[name] for share in shares) / 1e6 for name in shares[0]}
    *_, last = turns[-1]["printed"].split() or [""]
    if last.isdigit():
        found["peak"] = int(last) * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {**found, "modules": sorted(turns[-1]["imports"])}


def owner(module: str) -> str:
    """Returns the column of a module."""
    package = module.partition(".")[0]
    return next((name for name, packages in OWNERS.items() if package in packages), "other")


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """Prints the rows: seconds of the process, and of the imports in it by owner."""
    columns = (*OWNERS, "other")
    print(f"| | seconds | imports | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 3)}")
    for name, row in found.items():
        total = sum(row[column] for column in columns)
        cells = [f"{seconds:.2f}" for seconds in (row["seconds"], total, *(row[column] for column in columns))]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
