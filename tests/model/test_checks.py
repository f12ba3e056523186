"""Custom networks that are looked at before their first step: what is refused, what is said, what is right."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmnist import ImageClassifier, UserError, load
from fmnist.model.network import find_head
from fmnist.training.pretrained import Pretrained


class Base(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(784, 8)
        self.head = nn.Linear(8, num_classes)

    def features(self, x):
        return F.relu(self.body(x.flatten(1)))

    def forward(self, x):
        return self.head(self.features(x))


class BatchMean(Base):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class BatchScale(Base):
    def forward(self, x):
        return super().forward(x / x.std())


class BehindZeros(BatchMean):
    """Starts as a constant, as many residual networks do."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class Squeeze(Base):
    def forward(self, x):
        return super().forward(x).squeeze()


class BatchStatistics(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def features(self, x):
        return self.norm(super().features(x))


class Auxiliary(Base):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Embedding(Base):
    def forward(self, x):
        return self.features(x) if self.training else super().forward(x)


class Frozen(Base):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class PlainList(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.blocks = [nn.Linear(8, 8)]

    def features(self, x):
        return self.blocks[0](super().features(x))


class PlainTensor(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.positions = torch.randn(8)

    def features(self, x):
        return super().features(x) + self.positions


class InfiniteParameter(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.mask = nn.Parameter(torch.full((8,), -math.inf), requires_grad=False)


class SparseBuffer(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("links", torch.eye(8).to_sparse())


REFUSED = {
    BatchMean: "answers an image alone otherwise than among others",
    BatchScale: "answers an image alone otherwise than among others",
    BehindZeros: "answers an image alone otherwise than among others",
    Squeeze: r"returns the shape \(10,\) for a single image: it must be \(1, 10\)",
    BatchStatistics: "cannot take a single image: Expected more than 1 value",
    Auxiliary: "returns a tuple in training",
    Embedding: r"returns the shape \(2, 8\) for two images in training",
    Frozen: "logits without a gradient in training",
    PlainList: "answers differently when it is built again with its weights: hold layers in nn.ModuleList",
    PlainTensor: "answers differently when it is built again with its weights",
    InfiniteParameter: "the parameter 1.mask is not finite",
    SparseBuffer: "no checkpoint of it could be read: its 1.links is not a plain tensor",
}


@pytest.mark.parametrize("network", REFUSED)
def test_what_would_fail_later_is_refused_at_the_start(network):
    with pytest.raises(UserError, match=REFUSED[network]) as error:
        ImageClassifier(network=network)
    assert "\n" not in str(error.value)


class Softmax(Base):
    def forward(self, x):
        return super().forward(x).softmax(1)


class AlwaysDropout(Base):
    def features(self, x):
        return F.dropout(super().features(x), 0.5)


class RowByRow(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.rows = nn.Linear(28, num_classes)

    def forward(self, x):
        return self.rows(x.reshape(-1, 28)).view(len(x), 28, -1).mean(1)


SAID = {
    Base: "",
    Softmax: "warning: model.network Softmax ends with softmax",
    AlwaysDropout: "warning: model.network AlwaysDropout answers the same image differently each time",
    RowByRow: "note: typicality is not available",
}


@pytest.mark.parametrize("network", SAID)
def test_what_is_odd_is_said_once(network, capsys):
    model = ImageClassifier(network=network)
    out = capsys.readouterr().out
    assert out.count("\n") == bool(SAID[network])
    assert SAID[network] in out
    assert model.typicality.available == (network is not RowByRow)


def test_looking_changes_neither_the_network_nor_the_seed():
    torch.manual_seed(7)
    before = Base(10).state_dict()
    following = torch.rand(1)
    torch.manual_seed(7)
    model = ImageClassifier(network=Base)
    assert all(torch.equal(model.network[1].state_dict()[name], value) for name, value in before.items())
    assert torch.equal(torch.rand(1), following)
    assert model.network.training


class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyConv2d(4, 3, 2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes)
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_layers_get_their_shapes():
    assert ImageClassifier(network=Lazy).network[1].layers[3].weight.shape == (10, 676)


class Masked(Base):
    """Has what torch's own modules have as buffers: an infinite mask, complex numbers, one number as many."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(8))
        self.register_buffer("scale", torch.tensor([0.5]).expand(784))
        self.filter = nn.Parameter(torch.randn(28, 15, dtype=torch.cfloat))

    def features(self, x):
        x = torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=(28, 28))
        return super().features(x.flatten(1) * self.scale) + self.mask.softmax(1).mean(0)


def test_buffers_that_a_new_network_has_are_read_again(workplace, cli):
    named = ("--model.network", f"{__name__}.Masked")
    words = ("--data.val_size=100", "--trainer.max_epochs=1", "--trainer.logger=false")
    assert cli("fit", *named, *words)[0] == 0
    assert cli("test", *named)[0] == 0
    assert load("version_0", network=Masked).classify(torch.zeros(28, 28, dtype=torch.uint8)).name
    assert cli("fit", "--ckpt_path", "last", *named, "--trainer.max_epochs=2")[0] == 0


class HeadFirst(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.body = nn.Linear(784, 8)

    def forward(self, x):
        return self.head(F.relu(self.body(x.flatten(1))))


def test_the_head_is_what_changes_with_the_classes():
    settings = {"class_names": ["a", "b"], "mean": None, "std": None}
    assert find_head(settings, HeadFirst) == {"1.head.weight", "1.head.bias"}
    mlp = dict(ImageClassifier(hidden_dims=[4]).hparams)
    assert find_head(mlp) == {"3.weight", "3.bias"}


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_weights_of_other_classes_renew_the_head_alone(tmp_path, capsys, names):
    old = ImageClassifier(network=HeadFirst, class_names=["x", "y"])
    path = tmp_path / "old.ckpt"
    content = {"epoch": 0, "state_dict": old.state_dict(), "conversion": old.conversion}
    torch.save({**content, "hyper_parameters": dict(old.hparams)}, path)
    new = ImageClassifier(network=HeadFirst, class_names=names, weights=str(path))
    assert f"the head is new, for {len(names)} classes: head" in capsys.readouterr().out
    assert torch.equal(new.network[1].body.weight, old.network[1].body.weight)
    assert not torch.equal(new.network[1].head.weight[:2], old.network[1].head.weight)
    again = ImageClassifier(network=HeadFirst, class_names=["x", "y"], weights=str(path))
    assert torch.equal(again.network[1].head.weight, old.network[1].head.weight)
    assert Pretrained(str(path)).epochs == 1


def test_members_with_another_network_take_the_one_that_is_given(tmp_path):
    paths = []
    for name, network in (("mlp", None), ("own", Base)):
        model = ImageClassifier(network=network, hidden_dims=[4], class_names=["a", "b"])
        paths.append(tmp_path / f"{name}.ckpt")
        content = {"epoch": 0, "state_dict": model.state_dict(), "conversion": model.conversion}
        torch.save({**content, "hyper_parameters": dict(model.hparams)}, paths[-1])
    image = torch.zeros(28, 28, dtype=torch.uint8)
    both = load(paths, network=Base).classify(image).probabilities
    alone = [load(path, network=Base).classify(image).probabilities for path in paths]
    for name, probability in both.items():
        assert probability == pytest.approx((alone[0][name] + alone[1][name]) / 2)
    with pytest.raises(UserError, match=r"was trained with .*Base"):
        load(paths)


def test_float64_as_default_works_everywhere(workplace):
    from lightning.pytorch import Trainer

    from fmnist import FashionMNISTDataModule
    from fmnist.model.explain import occlude

    torch.set_default_dtype(torch.float64)
    try:
        model, data = ImageClassifier(hidden_dims=[8]), FashionMNISTDataModule(val_size=300)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **quiet)
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        assert model.evaluated.output.typicality.isfinite().all()
        assert occlude(model.trained(), data.test_set.images[0]).isfinite().all()
    finally:
        torch.set_default_dtype(torch.float32)
