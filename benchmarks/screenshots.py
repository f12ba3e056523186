"""The pictures of the product: the report of a test and the page of a model, in a real browser.

    python benchmarks/screenshots.py [--run lightning_logs/version_0] [--output docs]

Writes ``page.png``, the page alone, and ``product.png``, the report and the page beside each other. The run must have
been tested.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from fmnist import load
from fmnist.cli.export import describe_origin
from fmnist.inference.page import to_page
from tests.browser import open_browser

BOOT = Path(__file__).parent.parent / "docs" / "boot.png"


def main() -> None:
    """Opens both, and takes their pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("lightning_logs/version_0"), help="a run that has been tested")
    parser.add_argument("--output", type=Path, default=BOOT.parent, help="folder of the pictures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as browser:
        demo, checkpoint = Path(folder) / "demo.html", args.run / "checkpoints" / "best.ckpt"
        demo.write_text(to_page(load(checkpoint), describe_origin(checkpoint)), encoding="utf-8")
        wide = browser.new_page(viewport={"width": 1040, "height": 660})
        ask(wide, demo)
        save(wide.screenshot(), args.output / "page.png")
        report = browser.new_page(viewport={"width": 680, "height": 660})
        report.goto((args.run / "test" / "report.html").resolve().as_uri())
        narrow = browser.new_page(viewport={"width": 980, "height": 660})
        ask(narrow, demo)
        save(beside(report.screenshot(), narrow.screenshot()), args.output / "product.png")


def ask(page: Any, demo: Path) -> None:
    """Gives the page a picture and asks why."""
    page.goto(demo.as_uri())
    page.set_input_files("#file", str(BOOT))
    page.wait_for_function("document.getElementById('result').textContent.includes('%')")
    page.click("#why")
    page.wait_for_timeout(1000)  # the answer is drawn


def beside(*shots: bytes) -> bytes:
    """Puts pictures of one height beside each other, with a line between them."""
    pictures = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    whole = Image.new("RGB", (sum(one.width + 8 for one in pictures) - 8, pictures[0].height), (208, 215, 222))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + 8
    file = io.BytesIO()
    whole.save(file, format="PNG")
    return file.getvalue()


def save(shot: bytes, path: Path) -> None:
    """Writes a picture with 256 colours, a third of the size."""
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"written: {path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
