import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from fmnist import load
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.training.classifier import ImageClassifier


@pytest.fixture(scope="module")
def images(small_contents):
    data = np.frombuffer(small_contents["t10k-images-idx3-ubyte"], np.uint8, offset=16)
    return data.reshape(-1, 1, 28, 28).copy()


@pytest.fixture
def path(workplace, cli):
    args = ("--data.val_size", 100, "--model.hidden_dims", "[16]", "--model.dropout", 0.5, "--trainer.max_epochs", 3)
    assert cli("fit", *args, "--model.normalization", "batch")[0] == 0
    return workplace / "lightning_logs/version_0/checkpoints/best.ckpt"


@pytest.fixture
def predictor(path):
    return load(path)


def test_a_prediction_has_class_and_probabilities(predictor, images):
    found = predictor.classify(images[0])
    assert found.name == max(found.probabilities, key=found.probabilities.get)
    assert found.probability == found.probabilities[found.name]
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert [*found.probabilities] == predictor.class_names == FashionMNISTDataModule().class_names
    assert (found.note, found.typicality) == ("typicality not known", None)  # there were no validation images


def test_probabilities_are_those_of_the_model(predictor, path, images):
    model = ImageClassifier.load_from_checkpoint(path).eval()
    with torch.inference_mode():
        expected = torch.softmax(model(torch.from_numpy(images)) / model.temperature, dim=1)
    assert torch.equal(predictor.predict(torch.from_numpy(images)).probabilities, expected)
    assert model.temperature != 1


def test_every_way_to_give_a_picture_gives_the_same(predictor, images, tmp_path):
    image = images[3, 0]
    Image.fromarray(image).save(tmp_path / "shoe.png")
    ways = [
        image,
        image[None],
        torch.from_numpy(image),
        image.astype(np.float64) / 255,
        torch.from_numpy(image).float().div(255)[None],
        Image.fromarray(image),
        tmp_path / "shoe.png",
        str(tmp_path / "shoe.png"),
    ]
    expected = predictor.classify(ways[0])
    assert [predictor.classify(way) for way in ways] == [expected] * len(ways)
    together = predictor.classify(ways)
    assert [one.name for one in together] == [expected.name] * len(ways)
    (single,) = predictor.classify([image])
    assert single == expected
    assert predictor.classify([]) == []


def test_a_batch_gives_a_list(predictor, images):
    found = predictor.classify(images[:5])
    assert len(found) == 5
    assert found[2].name == predictor.classify(images[2]).name
    assert len(predictor.classify(torch.from_numpy(images[:5]).float() / 255)) == 5


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((28, 27), np.uint8), r"shape \(28, 27\)"),
        (np.zeros((3, 28, 28), np.uint8), r"shape \(3, 28, 28\)"),
        (np.zeros((2, 3, 28, 28), np.uint8), r"shape \(2, 3, 28, 28\)"),
        (np.zeros((28, 28), np.int64), "int64"),
        (np.zeros((28, 28), bool), "bool"),
        (np.full((28, 28), "x"), "<U1"),
        (np.full((28, 28), 1.5), "floats must be from 0 to 1"),
        (np.full((28, 28), np.nan), "floats must be from 0 to 1"),
        (torch.full((28, 28), -0.1), "floats must be from 0 to 1"),
        (17, "a int is not a picture"),
        (None, "a NoneType is not a picture"),
        ([np.zeros((28, 28), np.uint8), None], "a NoneType is not a picture"),
        ("missing.jpg", "missing.jpg does not exist"),
        ([np.zeros((2, 1, 28, 28), np.uint8)], "a list holds single pictures"),
    ],
)
def test_what_is_no_picture_is_a_value_error(predictor, picture, message):
    with pytest.raises(ValueError, match=message):
        predictor.classify(picture)


def test_arrays_of_any_layout_are_accepted(predictor, images):
    image = images[0, 0]
    expected = predictor.classify(image)
    assert predictor.classify(image[::-1][::-1]) == expected
    assert predictor.classify(np.asfortranarray(image)) == expected
    assert predictor.classify((image / 255).astype(">f8")) == expected


def test_threads_may_share_one(predictor, images, tmp_path):
    expected = [predictor.classify(image) for image in images]
    Image.fromarray(images[0, 0]).save(tmp_path / "shoe.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor.classify, images)) == expected
        list(pool.map(predictor.classify, [tmp_path / "shoe.png"] * 200))
    assert warnings.filters == before


def test_bytes_and_open_files_are_pictures(predictor, images, tmp_path):
    Image.fromarray(images[3, 0]).save(tmp_path / "shoe.png")
    expected = predictor.classify(tmp_path / "shoe.png")
    content = (tmp_path / "shoe.png").read_bytes()
    with (tmp_path / "shoe.png").open("rb") as file:
        assert [predictor.classify(content), predictor.classify(file)] == [expected] * 2
    with pytest.raises(ValueError, match="the picture is not a picture that can be read"):
        predictor.classify(b"hello")


def test_a_prediction_can_be_read(predictor, images):
    prediction = predictor.classify(images[0, 0])
    assert str(prediction).startswith(f"{prediction.name} {100 * prediction.probability:.2f}%, ")


def test_nothing_but_background_has_no_class_unless_it_is_an_image(predictor):
    blank = predictor.classify(Image.new("RGB", (100, 100), "white"))
    assert (blank.name, blank.probability, str(blank)) == (None, None, "no class (nothing but background)")
    assert predictor.classify(np.zeros((28, 28), np.uint8)).name is not None
