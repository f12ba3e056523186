"""How long 60,000 picture files take: the first time, and from the cache.

    python benchmarks/own_data.py [--root data] [--count 60000]

Writes the training images as PNG files in a folder per class, and reads them twice with
``ImageFolder``, each time in a process of its own; imports are not counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from fmnist.data.sources.download import VerifiedFashionMNIST

READ = """
import sys, time
from fmnist import ImageFolder
source, start = ImageFolder(sys.argv[1], test_size=0), time.perf_counter()
images, labels = source.load(train=True)
print(time.perf_counter() - start, len(images))
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of the data set (default data)")
    parser.add_argument("--count", type=int, default=60_000, help="pictures to use (default 60,000)")
    args = parser.parse_args()
    data = VerifiedFashionMNIST(args.root)
    with tempfile.TemporaryDirectory() as folder:
        for index, (image, label) in enumerate(zip(data.data[: args.count].numpy(), data.targets, strict=False)):
            path = Path(folder) / "photos" / f"{label}" / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        for what in ("the first time", "from the cache"):
            command = [sys.executable, "-c", READ, str(Path(folder) / "photos")]
            env = {**os.environ, "FMNIST_CACHE": str(Path(folder) / "cache")}
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            seconds, count = done.stdout.split()
            print(f"{int(count):,} PNG files {what}: {float(seconds):.1f} s")


if __name__ == "__main__":
    main()
