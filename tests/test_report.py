import csv
import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from fmnist.evaluation.report import write_report
from fmnist.evaluation.results import headline, measure
from fmnist.evaluation.scores import score
from fmnist.model.mlp import MLP
from tests.browser import open_browser
from tests.conftest import ROOT

pytestmark = pytest.mark.network  # a browser may have to be fetched


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def tested(real_root, tmp_path_factory):
    """A run on the real images, tested and predicted. Returns its folder."""
    folder = tmp_path_factory.mktemp("tested")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from fmnist.__main__ import main

        words = ["--config", str(ROOT / "configs/mlp.yaml"), "--data.source.root", str(real_root)]
        assert main(["fit", *words, "--model.hidden_dims=[32]", "--trainer.max_epochs=2", "--data.flip=true"]) == 0
        assert main(["test"]) == 0
        assert main(["predict", "--output", "out.csv"]) == 0
    return folder


def test_metrics_equal_those_of_scikit_learn_on_the_predictions_file(tested):
    metrics = json.loads((tested / "lightning_logs/version_0/test/metrics.json").read_text())
    with (tested / "out.csv").open() as file:
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
    for part in ("on 10,000 test images", "Ankle boot", "python -m fmnist test --ckpt_path", "most confident mistakes"):
        assert part in text
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 2 + 24
    assert all(width > 0 for width in widths), "every picture is there"
    assert page.eval_on_selector_all("img:not([alt]), table:not(:has(caption))", "found => found.length") == 0
    colors = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    dark = sum(int(part) for part in colors[1].strip("rgb()").split(",")) < 3 * 128
    assert dark == (scheme == "dark")
    context.close()


def test_names_are_shown_and_not_obeyed(tmp_path, browser):
    evil = ["<script>document.title = 'evil'</script>", "<img src=x onerror=\"document.title = 'evil'\">"]
    labels = torch.tensor([0, 1, 0, 1])
    logits = torch.eye(2)[torch.tensor([0, 1, 1, 0])]
    metrics = measure(score(logits, labels, 1.0), logits, labels, evil, 1.0) | {
        "checkpoint": "<b>.ckpt",
        "epoch": 1,
        "digests": {},
        "versions": {},
        "device": "cpu",
    }
    assert "not calibrated: there were no validation images" in " ".join(headline(metrics))
    write_report(
        metrics, MLP(2), logits, torch.zeros(4, 1, 28, 28, dtype=torch.uint8), labels, tmp_path / "report.html"
    )
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.title() == "fmnist: acc 50.00 % on 4 test images"
    assert evil[0] in page.inner_text("main")
    assert page.locator("main script, main b").count() == 0
    page.close()
