"""The pictures of README and docs: the page of a model in a real browser, and what the network sees of a picture.

    python benchmarks/screenshots.py [--run lightning_logs/version_0] [--root data] [--output docs]

Writes ``sneaker.png``, drawn here, in colours; the page with it as ``page.png`` and ``page-dark.png``;
``phone.png``, the page on a phone; ``product.png``, both beside each other; ``why.png``; and ``samples.png``, which is
what ``prepare --show`` draws. Everything has twice the resolution. The run must have been tested.
"""

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from fmnist import load
from fmnist.__main__ import main as fmnist
from fmnist.cli.export import describe_origin
from fmnist.inference.page import to_page
from fmnist.inference.predictor import Predictor
from fmnist.model.explain import AGAINST, FOR, draw
from tests.browser import open_browser

DOCS = Path(__file__).parent.parent / "docs"
SNEAKER = """<body style="margin:0"><svg xmlns="http://www.w3.org/2000/svg" width="400" height="300">
<rect width="400" height="300" fill="#2e5d63"/>
<g transform="translate(400) scale(-1 1)">
<path d="M44 200 C40 180 44 158 54 142 C62 130 76 128 90 136 C104 142 122 144 140 134 C150 128 158 126 166 132
 C196 150 226 164 262 172 C306 180 344 186 352 210 L352 216 L44 216 Z" fill="#e2553c"/>
<path d="M54 142 C62 130 76 128 90 136 C84 152 86 180 96 214 L46 214 C40 180 44 158 54 142 Z" fill="#f2a08c"/>
<path d="M140 134 C150 128 158 126 166 132 C196 150 226 164 262 172 L236 192 C196 182 164 164 138 140" fill="#f4b8a6"/>
<path stroke="#fff" stroke-width="6" d="M156 152 L182 134 M178 166 L204 148 M202 178 L228 160 M226 188 L250 170"/>
<path d="M112 208 C140 180 178 182 214 206 C180 199 150 199 122 214 Z" fill="#fff"/>
<path d="M302 182 C330 188 348 196 352 212 L300 214 C288 204 290 190 302 182 Z" fill="#f2a08c"/>
<path d="M40 212 L354 212 C362 216 362 230 352 234 L52 234 C42 232 38 222 40 212 Z" fill="#fbfaf7"/>
<path d="M42 227 L358 227 C357 231 355 234 350 235 L52 235 C46 234 43 231 42 227 Z" fill="#c9bdb2"/>
</g></svg></body>"""
WHY = """<body style="margin:20px; font:16px system-ui, sans-serif; background:#fff; color:#222; width:456px">
<div style="display:flex; justify-content:space-between"><span>what the network sees</span>
<span style="width:224px">which pixels decided</span></div>
<img src="{picture}" style="display:block; width:456px; margin:8px 0 14px">
<div style="display:flex; gap:12px; align-items:center; justify-content:center; font-size:14px">opposes {name}
<i style="width:150px; height:12px; background:linear-gradient(90deg, rgb{against}, #ddd, rgb{support})">
</i> supports {name}</div></body>"""
SIDE_BY_SIDE = """<body style="margin:24px 28px 32px; display:flex; gap:28px; align-items:center; background:#eef1f5">
<img src="{page}" style="width:1000px; border-radius:12px; box-shadow:0 4px 20px #0003">
<img src="{phone}" style="height:660px; border-radius:20px; box-shadow:0 4px 20px #0003"></body>"""


def main() -> None:
    """Draws, opens and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("lightning_logs/version_0"), help="a run that has been tested")
    parser.add_argument("--root", default="data", help="folder of the data set")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the pictures")
    args = parser.parse_args()
    checkpoint = args.run / "checkpoints" / "best.ckpt"
    predictor = load(checkpoint)
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as browser:
        samples = Path(folder) / "samples.png"
        fmnist(["prepare", "--data.source.root", args.root, "--show", str(samples)])
        save(samples.read_bytes(), args.output / "samples.png")
        demo, sneaker = Path(folder) / "demo.html", args.output / "sneaker.png"
        demo.write_text(to_page(predictor, describe_origin(checkpoint)), encoding="utf-8")

        def take(name: str, width: int, height: int, html: str = "", scheme: Any = "light", scale: int = 2) -> str:
            """Saves a picture of the page, or of HTML; returns it as a data URI."""
            options: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
            page = browser.new_page(**options, device_scale_factor=scale)
            if html:
                page.set_content(html)
            else:
                explain(page, demo, sneaker)
            shot = (
                page.screenshot() if html else page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
            )
            page.close()
            if name:
                save(shot, args.output / name)
            return uri(shot)

        take("sneaker.png", 400, 300, SNEAKER, scale=1)
        take("page-dark.png", 1040, 680, scheme="dark")
        both = {"page": take("page.png", 1040, 680), "phone": take("phone.png", 390, 844)}
        take("product.png", 1410, 720, SIDE_BY_SIDE.format(**both))
        take("why.png", 496, 322, WHY.format(**explained(predictor, DOCS / "boot.png"), support=FOR, against=AGAINST))


def explain(page: Any, demo: Path, picture: Path) -> None:
    """Gives the page a picture and asks why."""
    page.goto(demo.as_uri())
    page.set_input_files("#file", str(picture))
    page.wait_for_function("document.getElementById('note').textContent.includes('background')")
    page.click("#why")
    page.wait_for_timeout(2000)  # which is painted after the answer
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.move(0, 0)


def explained(predictor: Predictor, picture: Path) -> dict[str, str]:
    """Returns a picture's class, and what the network sees of it next to what decided."""
    found, seen = predictor.classify(picture), predictor.convert(picture).image
    label = predictor.class_names.index(str(found.name))
    file = io.BytesIO()
    Image.fromarray(draw(predictor.model, seen, label, float(found.probability or 0)).numpy()).save(file, format="PNG")
    print(found)
    return {"picture": uri(file.getvalue()), "name": str(found.name)}


def uri(content: bytes) -> str:
    """Returns a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def save(shot: bytes, path: Path) -> None:
    """Writes a picture with 256 colours, a third of the size."""
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"written: {path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
