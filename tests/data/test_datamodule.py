import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Subset

from fmnist import FashionMNIST
from fmnist.data.datamodule import FashionMNISTDataModule
from fmnist.errors import UserError


@pytest.fixture
def make(workplace):
    def make(**settings):
        data = FashionMNISTDataModule(**{"val_size": 100, **settings})
        data.prepare_data()
        data.setup()
        return data

    return make


def test_batches_are_uint8_images_and_labels(make):
    data = make(batch_size=32)
    for loader, size in ((data.train_dataloader(), 32), (data.val_dataloader(), 100), (data.test_dataloader(), 200)):
        images, labels = next(iter(loader))
        assert (images.shape, images.dtype) == ((size, 1, 28, 28), torch.uint8)
        assert (labels.shape, labels.dtype) == ((size,), torch.int64)


def test_an_epoch_has_every_image_once_in_a_new_order(make):
    loader = make(batch_size=64).train_dataloader()
    first = torch.cat([images for images, _ in loader])
    loader.sampler.set_epoch(1)
    second = torch.cat([images for images, _ in loader])
    assert first.shape == (500, 1, 28, 28)
    assert not torch.equal(first, second)
    assert len(torch.unique(torch.cat([first, second]).flatten(1), dim=0)) == 500


@pytest.mark.parametrize(
    ("train", "batch_size", "sizes"), [(65, 64, [65]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 1, [1] * 3)]
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_last_batch_of_one_joins_the_batch_before(make, train, batch_size, sizes, num_workers):
    if num_workers and batch_size != 4:
        return
    loader = make(val_size=600 - train, batch_size=batch_size, num_workers=num_workers).train_dataloader()
    for _ in range(2):
        batches = [*loader]
        assert [len(labels) for _, labels in batches] == sizes
        assert [len(images) for images, _ in batches] == sizes
        assert len(loader) == len(sizes)
        assert len(torch.unique(torch.cat([images for images, _ in batches]).flatten(1), dim=0)) == train


def test_batches_of_one_are_refused_where_they_cannot_be_trained_on(workplace, cli):
    words = ("fit", "--data.val_size=535", "--trainer.max_epochs=1", "--model.hidden_dims=[8]", "--data.batch_size")
    code, _, err = cli(*words, 1, "--model.normalization=batch")
    assert code == 2
    assert "data.batch_size 1: this network cannot be trained on single images (Expected more than 1 value" in err
    assert err.count("\n") == 1
    assert cli(*words, 1)[0] == 0
    code, out, err = cli(*words, 64, "--model.normalization=batch")
    assert (code, err) == (0, "")
    assert "65 training" in out


def test_workers_give_the_same_batches(make):
    alone, helped = (make(num_workers=n).train_dataloader() for n in (0, 1))
    for (images, labels), (same_images, same_labels) in zip(alone, helped, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_split_is_stratified_disjoint_and_complete(make):
    data = make()
    assert data.val_set.labels.bincount().tolist() == [10] * 10
    assert data.train_set.labels.bincount().tolist() == [50] * 10
    everything = torch.cat([data.train_set.images, data.val_set.images]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == 600


def test_split_follows_its_own_seed_only(make):
    torch.manual_seed(1)
    first = make().val_set.images
    torch.manual_seed(2)
    assert torch.equal(make().val_set.images, first)
    assert not torch.equal(make(split_seed=1).val_set.images, first)


@pytest.mark.parametrize(
    "changed",
    [
        {"val_size": 200},
        {"val_size": 0.5},
        {"fold": "2/5"},
        {"split_seed": 1},
        {"class_map": {"Sneaker": "Shoe", "Sandal": "Shoe"}},
        {"batch_size": 32},
        {"source": FashionMNIST("elsewhere")},
    ],
    ids=lambda changed: str(*changed),
)
def test_settings_that_are_changed_after_the_first_setup_are_obeyed(make, changed):
    data, fresh = make(), make(**changed)
    for name, value in changed.items():
        setattr(data, name, value)
    data.setup()
    assert data.split_digest == fresh.split_digest
    assert torch.equal(data.val_set.labels, fresh.val_set.labels)
    assert torch.equal(data.test_set.labels, fresh.test_set.labels)
    assert len(next(iter(data.train_dataloader()))[0]) == len(next(iter(fresh.train_dataloader()))[0])
    kept = data.train_set
    data.setup()
    assert data.train_set is kept, "what has not been changed is not read again"


def test_a_class_map_that_is_changed_in_place_is_obeyed(make):
    data = make(class_map={"Sneaker": "Shoe"})
    data.class_map["Sandal"] = "Shoe"
    data.setup()
    assert data.train_set.labels.max() == len(data.class_names) - 1 == 8


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("val_size", -1), ("shift", -1), ("fold", "6/5")])
def test_a_setting_that_is_changed_to_nonsense_is_refused(make, name, value):
    data = make()
    setattr(data, name, value)
    with pytest.raises(UserError, match=f"data.{name}"):
        data.setup("fit")


def test_val_size_0_trains_on_all(make):
    data = make(val_size=0)
    assert len(data.train_set) == 600
    assert data.val_dataloader() == []


@pytest.mark.parametrize(
    ("stage", "present"),
    [
        ("fit", (True, True, False)),
        ("validate", (True, True, False)),
        ("test", (False, False, True)),
        ("predict", (False, False, True)),
        (None, (True, True, True)),
    ],
)
def test_setup_reads_what_the_stage_needs(workplace, stage, present):
    data = FashionMNISTDataModule(val_size=100)
    data.prepare_data()
    data.setup(stage)
    assert tuple(part is not None for part in (data.train_set, data.val_set, data.test_set)) == present


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_size": -1}, "data.val_size is -1"),
        ({"val_size": 600}, "data.val_size 600 of 600 images leaves none to train on: give a share"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"shift": -1}, "data.shift is -1"),
        ({"num_workers": -1}, "data.num_workers is -1"),
    ],
)
def test_bad_settings_are_named(make, settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_batch_that_devices_cannot_share_is_refused(make):
    data = make(batch_size=64)
    data.trainer = Trainer(accelerator="cpu", devices=3, strategy="ddp", logger=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=r"64 cannot be shared equally by 3 devices: give --data.batch_size 63"):
        data.setup("fit")


def test_augmentation_is_for_training_only(make):
    data = make(flip=True, shift=2)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    batch = next(iter(data.train_dataloader()))
    data.trainer.training = True
    images, labels = data.on_after_batch_transfer(batch, 0)
    assert not torch.equal(images, batch[0])
    assert torch.equal(labels, batch[1])
    data.trainer.validating = True
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], batch[0])


def test_the_images_are_an_ordinary_data_set(small_data, tmp_path):
    data = FashionMNISTDataModule(FashionMNIST(str(tmp_path)), val_size=100)
    data.setup("fit")
    image, label = data.train_set[0]
    assert (image.shape, image.dtype, label) == ((1, 28, 28), torch.uint8, int(data.train_set.labels[0]))
    assert repr(data.train_set) == "500 images, uint8 (500, 1, 28, 28), with labels"
    images, labels = next(iter(DataLoader(Subset(data.train_set, [3, 5]), batch_size=2)))
    assert torch.equal(images, data.train_set.images[[3, 5]])
    assert torch.equal(labels, data.train_set.labels[[3, 5]])


def test_pixels_are_measured_where_nothing_is_published(small_data, tmp_path):
    source = FashionMNIST(str(tmp_path))
    data = FashionMNISTDataModule(source, val_size=100)
    data.setup("fit")
    assert data.pixel_statistics() == (0.2860, 0.3530)
    source.pixels = None
    pixels = data.train_set.images.double() / 255
    assert data.pixel_statistics() == pytest.approx((pixels.mean().item(), pixels.std().item()), abs=1e-4)
