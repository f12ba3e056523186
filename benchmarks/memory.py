"""How much memory ``fit`` takes for pictures in colour that are many: they stay in a file.

    python benchmarks/memory.py [--count 100000] [--side 64]

Draws pictures into a folder per class and trains on them for an epoch, in a process of its own, which prints
the anonymous memory (RssAnon, what is not a file) that it takes at most beyond that of the imports. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

FIT = """
import re, sys, threading, time
from pathlib import Path
import fmnist.cli.command, fmnist.training.checkpoints, fmnist.model.convnet
from fmnist.__main__ import main

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3

def watch():
    while True:
        found.append(anonymous())
        time.sleep(0.02)

before, found = anonymous(), [0.0]
threading.Thread(target=watch, daemon=True).start()
code = main(["fit", *sys.argv[1:]])
print(f"RssAnon: {before:.0f} MB after the imports, {max(found) - before:.0f} MB more in fit")
sys.exit(code)
"""


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="pictures to draw (default 100,000)")
    parser.add_argument("--side", type=int, default=64, help="their height and width (default 64)")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(args.count):
            path = Path(folder) / "photos" / f"{index % 10}" / f"{index:06}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((args.side, args.side, 3), random.integers(0, 256, 3), np.uint8)
            pixels[: args.side // 2, : random.integers(1, args.side)] = 25 * (index % 10)
            Image.fromarray(pixels).save(path)
        source = ["--data.source=ImageFolder", f"--data.source.folder={folder}/photos", "--data.source.color=true"]
        words = [*source, f"--data.source.image_size={args.side}", "--data.val_size=0.1", "--model.hidden_dims=[16]"]
        words += ["--trainer.max_epochs=1", "--data.batch_size=256", f"--trainer.default_root_dir={folder}"]
        env = {**os.environ, "FMNIST_CACHE": f"{folder}/cache"}
        return subprocess.run([sys.executable, "-c", FIT, *words], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
