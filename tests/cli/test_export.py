import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from fmnist import ImageClassifier, UserError, __version__, load
from fmnist.data.sources.download import VerifiedFashionMNIST
from fmnist.inference.onnx import to_onnx
from fmnist.inference.predictor import Predictor
from tests.conftest import ROOT, spawn

pytestmark = pytest.mark.network
BEST = Path("lightning_logs/version_0/checkpoints/best.ckpt")


@pytest.fixture(scope="module")
def place(tested, tmp_path_factory):
    """A folder with a trained and tested model, exported as ``model.onnx``."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(tested / "lightning_logs", folder / "lightning_logs")
    done = spawn("export", "--output", "model.onnx", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checked onnxruntime on 1,000 images: same class for 100.00%, probabilities within " in done.stdout
    assert "same class for 100.00%" in done.stdout
    return folder


@pytest.fixture
def session(place):
    return onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])


def test_all_test_images_get_the_same_class_and_probabilities(place, session, real_root):
    images = VerifiedFashionMNIST(real_root, train=False).data.unsqueeze(1)
    expected = load(place / BEST).predict(images).probabilities.numpy()
    (found,) = session.run(["probabilities"], {"images": images.numpy()})
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize("count", [0, 1, 7])
def test_any_number_of_images(session, count):
    (found,) = session.run(["probabilities"], {"images": np.zeros((count, 1, 28, 28), np.uint8)})
    assert found.shape == (count, 10)


def test_metadata_say_what_it_is(place, session):
    found = session.get_modelmeta().custom_metadata_map
    metrics = json.loads((place / BEST.parent.parent / "test" / "metrics.json").read_text())
    assert json.loads(found["class_names"])[9] == "Ankle boot"
    assert json.loads(found["metrics"])["acc"] == metrics["acc"]
    assert found["fmnist_version"] == __version__
    assert found["checkpoint_sha256"] == hashlib.sha256((place / BEST).read_bytes()).hexdigest()


def test_docs_show_how_to_use_it_without_fmnist_and_torch(place):
    (code,) = re.findall(
        r"```python\n(import json.*?)```", (ROOT / "docs/serving.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len([line for line in code.splitlines() if line]) <= 6
    from PIL import Image

    Image.fromarray(np.zeros((28, 28), np.uint8)).save(place / "shoe.png")
    forbid = "import sys; sys.modules['torch'] = sys.modules['fmnist'] = sys.modules['lightning'] = None\n"
    done = subprocess.run([sys.executable, "-c", forbid + code], cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_a_file_that_differs_from_the_model_is_not_kept(place, monkeypatch, cli, tmp_path):
    monkeypatch.chdir(place)
    real = Predictor.predict

    def predict(self, images):
        output = real(self, images)
        return output._replace(probabilities=output.probabilities * 1.01)

    monkeypatch.setattr(Predictor, "predict", predict)
    code, _, err = cli("export", "--output", tmp_path / "wrong.onnx")
    assert code == 2
    assert "the file differs from the model by" in err
    assert not list(tmp_path.iterdir())


class ByLen(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(784, num_classes)

    def forward(self, x):
        return self.head(x.reshape(len(x), 784))


def test_a_network_that_fixes_the_number_of_images_is_a_line(tmp_path):
    predictor = Predictor(ImageClassifier(network=ByLen).trained(), {"name": "distance", "transform": None})
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(UserError, match=r"fixes the number of images at 2: in its forward, take x\.shape\[0\]"):
        to_onnx(predictor, tmp_path / "best.ckpt")


def test_without_the_extra_it_says_what_to_install(place, monkeypatch, cli):
    monkeypatch.chdir(place)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    code, _, err = cli("export", "--output", "new.onnx")
    assert code == 2
    assert 'export needs onnxscript: pip install -e ".[export]"' in err


def test_the_checkpoint_is_what_was_trained(place):
    assert torch.load(place / BEST, weights_only=True)["state_dict"]["temperature"] != 1
