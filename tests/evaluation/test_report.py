import csv
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from fmnist.evaluation.report import write_report
from fmnist.evaluation.results import measure
from fmnist.evaluation.scores import score
from fmnist.model.mlp import MLP
from fmnist.model.trained import Output, TrainedModel

pytestmark = pytest.mark.network  # a browser may have to be fetched


def test_metrics_equal_those_of_scikit_learn_on_the_predictions_file(tested):
    metrics = json.loads((tested / "lightning_logs/version_0/test/metrics.json").read_text())
    with (tested / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [row["name"] for row in metrics["classes"]]
    actual, predicted = ([row[column] for row in rows] for column in ("actual", "predicted"))
    probabilities = np.array([[float(row[f"p({name})"]) for name in names] for row in rows])
    labels = np.array([names.index(name) for name in actual])
    assert metrics["acc"] == pytest.approx(sklearn.accuracy_score(actual, predicted), abs=1e-6)
    assert metrics["top2_acc"] == pytest.approx(sklearn.top_k_accuracy_score(labels, probabilities, k=2), abs=1e-6)
    assert metrics["nll"] == pytest.approx(-np.log(probabilities[range(len(labels)), labels]).mean(), abs=1e-6)
    brier = ((probabilities - np.eye(10)[labels]) ** 2).sum(1).mean()
    assert metrics["brier"] == pytest.approx(brier, abs=1e-6)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = (confidence * 15).astype(int).clip(max=14)
    ece = sum(abs((right - confidence)[bins == k].sum()) for k in range(15)) / len(labels)
    assert metrics["ece"] == pytest.approx(ece, abs=1e-6)
    columns = sklearn.precision_recall_fscore_support(actual, predicted, labels=names)
    for column, values in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[column] for row in metrics["classes"]] == pytest.approx(values, abs=1e-6)
    assert metrics["confusion_matrix"] == sklearn.confusion_matrix(actual, predicted, labels=names).tolist()


def test_metrics_say_where_they_come_from(tested):
    metrics = json.loads((tested / "lightning_logs/version_0/test/metrics.json").read_text())
    assert metrics["schema"] == 2
    assert metrics["checkpoint"] == "lightning_logs/version_0/checkpoints/best.ckpt"
    assert metrics["num_samples"] == 10_000
    low, high = metrics["acc_interval"]
    assert low < metrics["acc"] < high
    assert metrics["temperature"] != 1
    assert metrics["nll"] < metrics["loss"] + 0.002
    assert metrics["digests"]["split"] == "40b5754bfc8a85cd"
    assert len(metrics["digests"]["config"]) == 16
    assert {*metrics["versions"]} == {"fmnist", "python", "torch", "lightning", "torchmetrics"}
    assert metrics["seconds"] > 0
    assert abs(datetime.fromisoformat(metrics["date"]) - datetime.now().astimezone()) < timedelta(hours=1)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_page_is_complete_in_a_real_browser(tested, browser, width, scheme):
    messages, requests = [], []
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    url = (tested / "lightning_logs/version_0/test/report.html").as_uri()
    page.goto(url)
    assert messages == []
    assert [request for request in requests if not request.startswith("data:")] == [url]
    text = page.inner_text("main")
    for part in (
        "% accuracy\n",
        "On 10,000 test images.",
        "99% right on\n",
        "Ankle boot",
        "fmnist test --ckpt_path",
        "The most confident mistakes",
        "BatchNorm1d(64)\t128",
        "Linear(784, 64, bias=False)\t50,176",
        f"tested on {datetime.now():%Y}-",
        "SGD(lr=0.4, momentum=0.9",
        "data.batch_size\t512",
        "max_epochs\t2",
    ):
        assert part in text
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 3 + 2 * 20 + 1 + 20, "curves, calibration and risk, mistakes and why, typicality"
    targets = page.eval_on_selector_all(
        "nav a", "links => links.map(link => document.querySelector(link.hash).tagName)"
    )
    assert targets == ["H2"] * 8
    assert all(width > 0 for width in widths), "every picture is there"
    assert page.eval_on_selector_all("img:not([alt]), table:not(:has(caption))", "found => found.length") == 0
    colors = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    dark = sum(int(part) for part in colors[1].strip("rgb()").split(",")) < 3 * 128
    assert dark == (scheme == "dark")
    context.close()


@pytest.fixture
def report(tmp_path, browser):
    """Writes the report of made-up logits. Returns the page, open in a browser."""
    pages = []

    def report(names, logits, labels, temperature=1.0, paths=None, width=1280):
        metrics = measure(score(logits, labels, temperature), logits, labels, names, temperature) | {
            "date": "2026-01-31T23:59:00+01:00",
            "checkpoint": "<b>.ckpt",
            "epoch": 1,
            "digests": {},
            "versions": {},
            "device": "cpu",
        }
        images, path = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8), tmp_path / "report.html"
        output = Output(logits, torch.softmax(logits / temperature, 1), None)
        write_report(metrics, TrainedModel(MLP(len(names)), names), output, images, labels, path, paths=paths)
        pages.append(browser.new_page(viewport={"width": width, "height": 800}))
        pages[-1].goto(path.as_uri())
        return pages[-1]

    yield report
    for page in pages:
        page.close()


def test_names_are_shown_and_not_obeyed(report):
    evil = ["<script>document.title = 'evil'</script>", "<img src=x onerror=\"document.title = 'evil'\">"]
    page = report(evil, torch.eye(2)[torch.tensor([0, 1, 1, 0])], torch.tensor([0, 1, 0, 1]))
    assert page.title() == "fmnist: 50.00% accuracy on 4 test images"
    assert evil[0] in page.inner_text("main")
    assert page.locator("main script, main b").count() == 0
    assert "trained for 1 epoch; tested on 2026-01-31 23:59 (UTC+0100)" in page.inner_text("main")


def test_what_was_not_calibrated_has_one_diagram(report):
    logits, labels = torch.eye(2)[torch.tensor([0, 1, 1, 0])], torch.tensor([0, 1, 0, 1])
    for temperature, count in ((1.0, 1), (2.0, 2)):
        page = report(["a", "b"], logits, labels, temperature)
        box = page.locator("img[alt*='eliability diagram']").evaluate("i => i.naturalWidth / i.naturalHeight")
        assert round(box / 1.125) == count
        assert ("not calibrated: there were no" in page.inner_text("main")) == (count == 1)


def test_mistakes_are_captioned_with_both_names_and_the_file(report):
    logits = torch.eye(2)[torch.tensor([0, 1, 1])]
    page = report(["cat", "dog"], logits, torch.tensor([0, 1, 0]), paths=["0.jpg", "1.jpg", "a/2.jpg"])
    assert page.inner_text("figcaption").splitlines() == ["predicted dog", "actual cat", "73.1%, a/2.jpg"]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_matrix_of_47_classes_keeps_its_names_in_sight(report, width):
    names = [f"class {number}" for number in range(47)]
    labels = torch.arange(470) % 47
    page = report(names, torch.eye(47)[labels.roll(1)] * 5, labels, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    region = page.get_by_role("region", name="Confusion matrix")
    region.evaluate("r => { r.scrollIntoView(); r.scrollTo(r.scrollWidth, r.scrollHeight) }")
    frame = region.bounding_box()
    for kind, last in (("row", names[46]), ("col", names[46])):
        box = region.locator(f"th[scope={kind}]", has_text=last).bounding_box()
        assert frame["x"] <= box["x"] <= frame["x"] + frame["width"] - box["width"] + 1
        assert frame["y"] <= box["y"] <= frame["y"] + frame["height"] - box["height"] + 1
    assert region.locator("td[title='actual class 46, predicted class 45: 100.0%']").inner_text() == "10"
