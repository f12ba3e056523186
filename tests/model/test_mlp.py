import pytest
import torch
from torch import nn

from fmnist.model.mlp import MLP


@pytest.fixture
def images():
    return torch.randint(0, 256, (32, 1, 28, 28), dtype=torch.uint8)


def test_turns_uint8_images_into_logits(images):
    assert MLP(num_classes=7)(images).shape == (32, 7)


def test_first_layer_scales_and_normalizes(images):
    expected = (images / 255 - 0.2860) / 0.3530  # pictures still, for a network that wants them
    torch.testing.assert_close(MLP()[0](images), expected, atol=1e-5, rtol=1e-5)


def test_mean_0_and_std_1_only_scale(images):
    torch.testing.assert_close(MLP(mean=0.0, std=1.0)[0](images), images / 255)


def test_takes_the_floating_point_type_of_the_network(images):
    assert MLP().double()(images).dtype == torch.float64


def test_default_is_784_512_512_10_with_relu():
    layers = [layer for layer in MLP() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(784, 512), (512, 512), (512, 10)]
    assert sum(isinstance(layer, nn.ReLU) for layer in MLP()) == 2
    assert sum(p.numel() for p in MLP().parameters()) == 669_706


def test_no_hidden_layer_is_a_linear_classifier():
    assert [p.shape for p in MLP(hidden_dims=[]).parameters()] == [(10, 784), (10,)]


def test_options_add_their_layers():
    names = [
        type(layer).__name__ for layer in MLP(hidden_dims=[8], dropout=0.1, normalization="batch", activation="gelu")
    ]
    assert names == ["PixelNormalization", "Flatten", "Linear", "BatchNorm1d", "GELU", "Dropout", "Linear"]


def test_only_learned_values_are_in_the_state():
    assert list(MLP(hidden_dims=[8]).state_dict()) == ["1.weight", "1.bias", "3.weight", "3.bias"]
