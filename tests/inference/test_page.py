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

PREDICT = """(text) => { const all = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), found = [];
for (let i = 0; i < all.length; i += 784) found.push(fmnist.predict(all.subarray(i, i + 784)));
return [found.map((one) => Array.from(one.shares)), found.map((one) => one.typicality)]; }"""
READ = """async (texts) => { const found = [];
for (const text of texts) {
  const { rgba } = await fmnist.decode(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
  const seen = fmnist.convert(rgba);
  found.push({ note: seen.note, empty: seen.empty, pixels: Array.from(seen.pixels) });
} return found; }"""
EXPLAIN = "async (text) => Array.from(await fmnist.explain(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), 3))"
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
    said, pages = [], []

    def open_page(script="", **options):
        page = browser.new_page(**options)
        pages.append(page)
        page.add_init_script(script)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto((place / "demo.html").as_uri())
        said.remove((place / "demo.html").as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not [text for text in said if not text.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def images(real_root):
    return FashionMNIST(real_root).load(train=False)[0]


def predictor(place):
    return load(place / "lightning_logs/version_0")


def test_the_page_computes_what_the_model_computes(opened, place, images):
    noise = torch.randint(0, 256, (50, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shown = torch.cat([noise, images[:2000]])
    shares, typicality = map(torch.tensor, opened().evaluate(PREDICT, encode(shown.numpy().tobytes())))
    expected = predictor(place).predict(shown)
    assert (shares.argmax(1) == expected.probabilities.argmax(1)).float().mean() >= 0.999, "but for ties"
    assert (shares - expected.probabilities).abs().max() < 2e-3
    assert (typicality - expected.typicality).abs().max() < 0.01
    assert (typicality[:50] < UNLIKE).all()


def paint(array, thing, background):
    share = np.asarray(Image.fromarray(array).resize((280, 210), Image.Resampling.BICUBIC))[..., None] / 255
    return Image.fromarray((share * np.array(thing) + (1 - share) * np.array(background)).round().astype(np.uint8))


def transparent(array):
    picture = Image.new("RGBA", (280, 280), (30, 60, 200, 0))
    picture.putalpha(Image.fromarray(array).resize((280, 280)).point(lambda value: 255 * (value > 20)))
    return picture


KINDS = {
    "pixels": Image.fromarray,
    "on white": lambda array: paint(array, (0, 0, 0), (255, 255, 255)),
    "red on green": lambda array: paint(array, (220, 20, 30), (20, 140, 40)),
    "pale": lambda array: paint(array, (150, 150, 150), (128, 128, 128)),
    "tiny": lambda array: Image.fromarray(255 - array).resize((11, 17), Image.Resampling.BOX),
    "transparent": transparent,
    "empty": lambda _: Image.new("RGB", (40, 50), (200, 200, 200)),
}


def test_the_page_converts_as_the_package_does(opened, place, images):
    page, model = opened(), predictor(place)
    for kind, make in KINDS.items():
        contents = []
        for image in images[:12]:
            file = io.BytesIO()
            make(image[0].numpy()).save(file, format="PNG")
            contents.append(file.getvalue())
        for content, found in zip(contents, page.evaluate(READ, [*map(encode, contents)]), strict=True):
            expected = model.convert(content)
            assert (found["note"], found["empty"]) == (expected.note, expected.empty), kind
            difference = torch.tensor(found["pixels"]) - expected.image.flatten().int()
            assert difference.abs().float().mean() < 0.5, kind


def test_the_page_explains_as_the_package_does(opened, place, images):
    page, model = opened(), predictor(place).model
    for image in images[:3]:
        found = torch.tensor(page.evaluate(EXPLAIN, encode(image.numpy().tobytes()))).view(28, 28)
        expected = occlude(model, image, 3)
        assert (found - expected).abs().max() < 0.02 * expected.abs().max() + 1e-3


NOTHING = "Draw something to start"
HEAT = """() => { const copy = new OffscreenCanvas(28, 28).getContext("2d");
copy.drawImage(document.getElementById("heat"), 0, 0);
return copy.getImageData(0, 0, 28, 28).data.some((value) => value > 0); }"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_every_way_in(opened, images, tmp_path, width, scheme):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_function("() => document.getElementById('result').textContent.includes('%')")  # an example
    page.click("#clear")
    page.wait_for_function("(text) => document.getElementById('result').textContent === text", arg=NOTHING)
    file = tmp_path / "boot.png"
    paint(images[0][0].numpy(), (0, 0, 0), (255, 255, 255)).save(file)

    def is_seen(note):
        page.wait_for_function("(note) => document.getElementById('note').textContent.startsWith(note)", arg=note)
        assert "%" in page.inner_text("#result")
        page.click("#clear")
        page.wait_for_function("(text) => document.getElementById('result').textContent === text", arg=NOTHING)

    page.set_input_files("#file", str(file))
    is_seen("light background: inverted")
    for way in (DROP, PASTE):
        page.evaluate(way, encode(file.read_bytes()))
        is_seen("light background: inverted")
    draw_line(page)
    is_seen("dark background: kept")
    page.click("#undo")
    page.wait_for_function("() => document.getElementById('note').textContent.startsWith('dark background: kept')")
    page.click("#why")
    page.wait_for_function(HEAT)
    assert page.is_visible("#legend")
    page.click("#examples button:nth-of-type(10)")
    page.wait_for_function("() => document.getElementById('note').textContent === ''")
    assert not page.evaluate(HEAT), "the answer comes first"
    page.wait_for_function(HEAT)
    page.click("#camera")  # there is none here
    page.wait_for_function("() => document.getElementById('said').textContent.includes('no camera')")
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", str(tmp_path / "text.png"))
    page.wait_for_function("() => document.getElementById('said').textContent.includes('not a picture')")


def draw_line(page):
    box = page.locator("#draw").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 180, steps=5)
    page.mouse.up()


def test_on_a_phone_the_answer_is_in_sight_while_one_draws(opened):
    page = opened(viewport={"width": 390, "height": 664})  # an iPhone's 844 without the bars of its browser
    page.wait_for_function("() => document.getElementById('result').textContent.includes('%')")
    assert page.is_visible("#hint")
    boot = state(page)[0]
    draw_line(page)
    page.wait_for_function("(boot) => document.getElementById('result').textContent !== boot", arg=boot)
    assert not page.is_visible("#hint")
    canvas, answer = (page.locator(name).bounding_box() for name in ("#draw", "#answer"))
    assert canvas["y"] + canvas["height"] <= answer["y"]
    assert answer["y"] + answer["height"] <= 664
    assert page.evaluate("scrollY") == 0


def test_an_untypical_picture_changes_the_headline(opened, tmp_path):
    page = opened()
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    noise[:2, :2] = noise[:2, -2:] = noise[-2:, :2] = noise[-2:, -2:] = 0
    Image.fromarray(noise).save(tmp_path / "noise.png")
    choose(page, tmp_path / "noise.png")
    page.wait_for_function("() => document.getElementById('result').textContent.startsWith('Not sure: ')")
    assert "Best guess: " in state(page)[0]
    assert "validation images look" in page.inner_text("#typical")
    page.click("#examples button:nth-of-type(10)")
    page.wait_for_function("() => !document.getElementById('result').textContent.startsWith('Not sure: ')")
    assert page.inner_text("#typical") == ""


def test_the_network_computes_a_picture_once(opened):
    calls = """() => { const real = dense; let calls = 0; window.dense = (...all) => { calls++; return real(...all); };
fmnist.predict(new Uint8Array(784).fill(9)); return [calls, layers.length]; }"""
    assert opened().evaluate(calls) == [3, 3]


def test_the_page_speaks_the_language_of_the_browser(opened):
    page = opened(locale="zh-CN")
    assert page.inner_text("h1").startswith("这是什么")
    assert page.get_attribute("html", "lang") == "zh-CN"
    english, chinese = page.evaluate("[Object.keys(TEXTS.en), Object.keys(TEXTS.zh)]")
    assert english == chinese
    assert page.eval_on_selector_all("[data-text]", "all => all.filter((one) => !one.textContent).length") == 0


LARGE = {"24 megapixels": (5712, 4284), "48 megapixels": (8064, 5952), "panorama": (16000, 2000)}
PHONE = """for (const Kind of [CanvasRenderingContext2D, OffscreenCanvasRenderingContext2D]) {
const real = Kind.prototype.getImageData;
Kind.prototype.getImageData = function (...a) {
  const { width, height } = this.canvas, fits = width * height <= 16777216 && Math.max(width, height) <= 8192;
  return fits ? real.apply(this, a) : new ImageData(a[2], a[3]); }; }"""
RANDOM = """for (const Kind of [CanvasRenderingContext2D, OffscreenCanvasRenderingContext2D]) {
const real = Kind.prototype.getImageData;
Kind.prototype.getImageData = function (...a) {
  const found = real.apply(this, a);
  for (let i = 0; i < found.data.length; i++) found.data[i] = i % 4 === 3 ? 255 : NOISE;
  return found; }; }"""


SLOW = """() => { const real = createImageBitmap; window.decoded = 0;
window.createImageBitmap = async (blob) => { const found = await real(blob);
if (blob.size > 100000) { await new Promise((next) => setTimeout(next, 300)); window.decoded++; } return found; }; }"""


def state(page):
    """Returns what the page says: the result, the note of the conversion, and mistakes."""
    return page.evaluate("() => ['result', 'note', 'said'].map((id) => document.getElementById(id).textContent)")


@pytest.fixture(scope="module")
def files(images, tmp_path_factory):
    """Pictures of one boot, small and as phones take them."""
    folder = tmp_path_factory.mktemp("files")
    picture = paint(images[0][0].numpy(), (0, 0, 0), (255, 255, 255))
    picture.save(folder / "small.jpg")
    for name, size in LARGE.items():
        picture.convert("L").resize(size, Image.Resampling.NEAREST).save(folder / f"{name}.jpg")
    return folder


def choose(page, file):
    page.set_input_files("#file", str(file))


def is_shown(page, note="light background: inverted"):
    page.wait_for_function("(note) => document.getElementById('note').textContent.startsWith(note)", arg=note)


def test_pictures_of_phones_are_reduced_to_their_canvas(opened, place, files):
    page, model = opened(PHONE), predictor(place)
    for name in LARGE:
        choose(page, files / f"{name}.jpg")
        is_shown(page)
        expected = model.classify(files / f"{name}.jpg")
        assert expected.note.startswith("light background: inverted")
        assert state(page)[0].startswith(f"{expected.name}, "), name
        page.click("#clear")
        is_shown(page, "nothing but background")


def test_the_last_choice_is_shown(opened, images, files, tmp_path):
    page = opened()
    paint(images[1][0].numpy(), (255, 255, 255), (0, 0, 0)).save(tmp_path / "last.png")
    choose(page, tmp_path / "last.png")
    is_shown(page, "dark background: kept")
    alone = state(page)
    page.evaluate(SLOW)
    for action, left in (
        (lambda: choose(page, tmp_path / "last.png"), alone),
        (lambda: page.click("#clear"), [NOTHING, "nothing but background", ""]),
        (lambda: page.click("#examples button:nth-of-type(10)"), None),
    ):
        choose(page, files / "24 megapixels.jpg")
        action()
        page.wait_for_function("() => window.decoded === 1")
        page.wait_for_timeout(100)
        page.evaluate("window.decoded = 0")
        assert left is None or state(page) == left
        assert "inverted" not in state(page)[1]
    page.evaluate("""() => { navigator.mediaDevices.getUserMedia = async () => {
await new Promise((next) => setTimeout(next, 200)); window.decoded = 1; return draw.captureStream(); }; }""")
    page.click("#camera")
    choose(page, tmp_path / "last.png")
    page.wait_for_function("() => window.decoded === 1")
    page.wait_for_timeout(300)
    assert state(page) == alone, "a camera that starts late"
    assert page.get_attribute("#camera", "aria-pressed") == "false"


def test_one_pointer_draws_with_the_main_button(opened):
    page = opened()
    white = """([x, width]) => [...document.getElementById('draw').getContext('2d').getImageData(x, 0, width, 280).data]
    .filter((value, i) => i % 4 === 0 && value > 100).length"""
    page.click("#clear")
    box = page.locator("#draw").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    assert page.evaluate(white, [0, 280]) == 0
    page.evaluate("""() => { const draw = document.getElementById('draw'), held = new Set();
draw.setPointerCapture = (id) => held.add(id); draw.hasPointerCapture = (id) => held.has(id);
draw.addEventListener('pointerup', (event) => held.delete(event.pointerId)); }""")

    def touch(kind, pointer, x, y):
        event = {"pointerId": pointer, "clientX": box["x"] + x, "clientY": box["y"] + y, "pointerType": "touch"}
        page.evaluate(
            """([kind, event]) => document.getElementById('draw').dispatchEvent(new PointerEvent(kind, event))""",
            [kind, event | {"button": 0, "buttons": 1, "bubbles": True, "isPrimary": pointer == 1}],
        )

    touch("pointerdown", 1, 60, 60)
    touch("pointerdown", 2, 220, 60)
    for y in range(80, 230, 20):
        touch("pointermove", 1, 60, y)
        touch("pointermove", 2, 220, y)
    assert page.evaluate(white, [40, 40]) > 1000
    assert page.evaluate(white, [100, 180]) == 0
    touch("pointerup", 1, 60, 220)
    touch("pointerdown", 2, 220, 60)
    assert page.evaluate(white, [100, 180]) > 100


@pytest.mark.parametrize("noise", ["(Math.random() * 256) | 0", "255"])
def test_a_browser_that_hides_pixels_is_named(opened, files, noise):
    page = opened(RANDOM.replace("NOISE", noise))
    assert "random pixels" in state(page)[2]
    choose(page, files / "small.jpg")
    page.wait_for_timeout(300)
    assert state(page)[0] == NOTHING
    assert "random pixels" in state(page)[2]


def test_weak_noise_does_no_harm(opened, place, files):
    page = opened(RANDOM.replace("NOISE", "found.data[i] ^ (Math.random() < 0.5)"))
    choose(page, files / "small.jpg")
    is_shown(page)
    assert state(page)[0].startswith(f"{predictor(place).classify(files / 'small.jpg').name}, ")


def test_older_browsers_have_no_offscreen_canvas(opened, files):
    page = opened("delete window.OffscreenCanvas")
    choose(page, files / "small.jpg")
    is_shown(page)


@pytest.mark.parametrize("event", ['DragEvent("drop", { dataTransfer', 'ClipboardEvent("paste", { clipboardData'])
def test_an_address_that_is_dropped_or_pasted_is_named(opened, event):
    page = opened()
    page.evaluate(f"""() => {{ const data = new DataTransfer(); data.setData("text/uri-list", "https://example.org/a.jpg");
document.body.dispatchEvent(new {event}: data, bubbles: true, cancelable: true }})); }}""")
    assert "save the picture first" in state(page)[2]


def test_names_of_classes_are_text(place):
    model = predictor(place)
    model.class_names[0] = "</script><img src=x onerror=alert(1)>"
    page = to_page(model, {"version": "<b>"})
    assert "<img" not in page
    assert page.count("</script>") == 2


def test_what_the_page_cannot_do_is_refused(place, cli, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    model = predictor(place)
    model.description = {"name": "distance", "transform": "mine.Turn"}
    with pytest.raises(Exception, match=r"by the transform mine.Turn: give --output FILE.onnx"):
        to_page(model, {})
    model = predictor(place)
    model.model.network = torch.nn.Sequential(model.model.network)
    with pytest.raises(Exception, match=r"cannot compute Sequential: give --output FILE.onnx"):
        to_page(model, {})
    code, _, err = cli("export", "--output", "demo.html")
    assert code == 2
    assert "the file exists" in err
