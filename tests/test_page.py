"""The demo page: one file that computes what the model computes, in a real browser."""

import base64
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fmnist import FashionMNIST, load
from fmnist.__main__ import main
from fmnist.inference.page import to_page
from fmnist.model.explain import occlude
from fmnist.model.typicality import UNLIKE

CLASSIFY = """(text) => { const all = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), found = [];
for (let i = 0; i < all.length; i += 784) found.push(Array.from(fmnist.classify(all.subarray(i, i + 784))));
return found; }"""
READ = """async (text) => {
const { rgba } = await fmnist.decode(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
const seen = fmnist.convert(rgba);
return { note: seen.note, empty: seen.empty, pixels: Array.from(seen.pixels) }; }"""
EXPLAIN = "(text) => Array.from(fmnist.explain(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), 3))"
DROP = """(text) => { const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "shoe.png", { type: "image/png" }));
document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })); }"""
PASTE = DROP.replace('DragEvent("drop", { dataTransfer', 'ClipboardEvent("paste", { clipboardData')


def encode(content):
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def place(tested, tmp_path_factory):
    """A folder with a run on the real images. Batch normalization has to be folded in."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(tested / "lightning_logs", folder / "lightning_logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export", "--output", "demo.html"]) == 0
    return folder


@pytest.fixture
def opened(browser, place):
    """Opens the page; fails if it says anything on the console, or asks for anything."""
    said = []

    def open_page(**options):
        page = browser.new_page(**options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto((place / "demo.html").as_uri())
        said.remove((place / "demo.html").as_uri())
        return page

    yield open_page
    assert not [text for text in said if not text.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def images(real_root):
    return FashionMNIST(real_root).load(train=False)[0]


def predictor(place):
    return load(place / "lightning_logs/version_0")


def test_the_page_computes_what_the_model_computes(opened, place, images):
    found = torch.tensor(opened().evaluate(CLASSIFY, encode(images[:2000].numpy().tobytes())))
    expected = predictor(place).predict(images[:2000]).probabilities
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.999, "but for ties"
    assert (found - expected).abs().max() < 2e-3


def test_the_page_tells_how_typical_an_image_is(opened, place, images):
    noise = torch.randint(0, 256, (50, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shown = torch.cat([images[:500], noise])
    judge = CLASSIFY.replace("Array.from(fmnist.classify", "(fmnist.judge")
    found = torch.tensor(opened().evaluate(judge, encode(shown.numpy().tobytes())))
    assert (found - predictor(place).predict(shown).typicality).abs().max() < 0.01
    assert (found[500:] < UNLIKE).all()


def paint(array, thing, background):
    share = np.asarray(Image.fromarray(array).resize((280, 210), Image.Resampling.BICUBIC))[..., None] / 255
    return Image.fromarray((share * np.array(thing) + (1 - share) * np.array(background)).round().astype(np.uint8))


def transparent(array):
    picture = Image.new("RGBA", (280, 280), (30, 60, 200, 0))
    picture.putalpha(Image.fromarray(array).resize((280, 280)).point(lambda value: 255 * (value > 20)))
    return picture


@pytest.mark.parametrize(
    "make",
    [
        Image.fromarray,
        lambda array: paint(array, (0, 0, 0), (255, 255, 255)),
        lambda array: paint(array, (220, 20, 30), (20, 140, 40)),
        lambda array: paint(array, (150, 150, 150), (128, 128, 128)),
        lambda array: Image.fromarray(255 - array).resize((11, 17), Image.Resampling.BOX),
        transparent,
        lambda _: Image.new("RGB", (40, 50), (200, 200, 200)),
    ],
    ids=["pixels", "on white", "red on green", "pale", "tiny", "transparent", "empty"],
)
def test_the_page_converts_as_the_package_does(opened, place, images, make):
    page, model = opened(), predictor(place)
    for image in images[:12]:
        file = io.BytesIO()
        make(image[0].numpy()).save(file, format="PNG")
        found = page.evaluate(READ, encode(file.getvalue()))
        expected = model.read(io.BytesIO(file.getvalue()))
        assert (found["note"], found["empty"]) == (expected.note, expected.empty)
        difference = torch.tensor(found["pixels"]) - expected.image.flatten().int()
        assert difference.abs().float().mean() < 0.5


def test_the_page_explains_as_the_package_does(opened, place, images):
    page, model = opened(), predictor(place).model
    for image in images[:3]:
        found = torch.tensor(page.evaluate(EXPLAIN, encode(image.numpy().tobytes()))).view(28, 28)
        expected = occlude(model, image, 3)
        assert (found - expected).abs().max() < 0.02 * expected.abs().max() + 1e-3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_way_in(opened, images, tmp_path, width, scheme):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.inner_text("#result") == "Nothing to see yet"
    file = tmp_path / "boot.png"
    paint(images[0][0].numpy(), (0, 0, 0), (255, 255, 255)).save(file)

    def is_seen(note):
        page.wait_for_function("(note) => document.getElementById('note').textContent.startsWith(note)", arg=note)
        assert "%" in page.inner_text("#result")
        page.click("#clear")
        page.wait_for_function("() => document.getElementById('result').textContent === 'Nothing to see yet'")

    page.set_input_files("#file", str(file))
    is_seen("light background: inverted")
    for way in (DROP, PASTE):
        page.evaluate(way, encode(file.read_bytes()))
        is_seen("light background: inverted")
    box = page.locator("#draw").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 180, steps=5)
    page.mouse.up()
    page.click("#why")
    is_seen("dark background: kept")
    page.click("#undo")
    page.wait_for_function("() => document.getElementById('note').textContent.startsWith('dark background: kept')")
    page.click("#examples button:nth-child(10)")
    page.wait_for_function("() => document.getElementById('note').textContent === ''")
    heat = "[...document.getElementById('heat').getContext('2d').getImageData(0, 0, 28, 28).data].some((v) => v > 0)"
    assert page.evaluate(heat), "Why? stays pressed"
    page.click("#camera")  # there is none here
    page.wait_for_function("() => document.getElementById('said').textContent.includes('no camera')")
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", str(tmp_path / "text.png"))
    page.wait_for_function("() => document.getElementById('said').textContent.includes('not a picture')")


def test_names_of_classes_are_text(place):
    model = predictor(place)
    model.class_names[0] = "</script><img src=x onerror=alert(1)>"
    page = to_page(model, "<b>")
    assert "<img" not in page
    assert page.count("</script>") == 2


def test_what_the_page_cannot_do_is_refused(place, cli, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    model = predictor(place)
    model.description = {"name": "distance", "transform": "mine.Turn"}
    with pytest.raises(Exception, match=r"by the transform mine.Turn: give --output FILE.onnx"):
        to_page(model, "")
    model = predictor(place)
    model.model.network = torch.nn.Sequential(model.model.network)
    with pytest.raises(Exception, match=r"cannot compute Sequential: give --output FILE.onnx"):
        to_page(model, "")
    code, _, err = cli("export", "--output", "demo.html")
    assert code == 2
    assert "the file exists" in err
