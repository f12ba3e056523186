import torch

from fmnist.data.sources.fashion_mnist import FashionMNIST


def test_gives_images_with_a_channel_and_labels(workplace):
    source = FashionMNIST()
    source.prepare()
    images, labels = source.load(train=True)
    assert (images.shape, images.dtype) == ((600, 1, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((600,), torch.int64)
    assert source.load(train=False)[0].shape == (200, 1, 28, 28)


def test_has_the_ten_classes():
    assert FashionMNIST.class_names[0] == "T-shirt/top"
    assert FashionMNIST.class_names[9] == "Ankle boot"
    assert len(FashionMNIST.class_names) == 10


def test_root_is_a_setting(workplace):
    FashionMNIST(root="elsewhere").prepare()
    assert len(list(workplace.glob("elsewhere/FashionMNIST/raw/*-ubyte"))) == 4
