"""Files of ``torch.save``: those of a run are read as torch reads them, others are refused before they do harm."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmnist.runs.archive import read_archive

RUN = Path("lightning_logs/version_0")
SMALL = ("--data.val_size", 300, "--data.batch_size", 100, "--trainer.max_epochs", 2)
CODE = '''
import torch
from torch import nn


class Odd(nn.Module):
    """Has buffers of several kinds, a weight that is used twice, and a version."""

    _version = 3

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.tied = nn.Linear(8, 8)
        layers = [nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), self.tied, nn.ReLU(), self.tied]
        self.layers = nn.Sequential(*layers, nn.Linear(8, num_classes))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("count", torch.arange(4).to(torch.uint16))

    def forward(self, images):
        return self.layers(images)
'''


def callback(name, *settings):
    return (f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{setting}" for setting in settings))


def assert_same(found, expected):
    """Compares values and tensors with their types, strides and the memory that they take."""
    assert type(found) is type(expected)
    assert getattr(found, "_metadata", None) == getattr(expected, "_metadata", None)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, Tensor):
        about = [
            (one.dtype, one.shape, one.stride(), one.storage_offset(), one.untyped_storage().nbytes())
            for one in (found, expected)
        ]
        assert about[0] == about[1]
        one, other = (torch.empty(0, dtype=torch.uint8).set_(each.untyped_storage()) for each in (found, expected))
        assert torch.equal(one, other)
    else:
        assert found == expected or found != found


RUNS = {
    "SGD": ("--model.optimizer=SGD", "--model.optimizer.momentum=0.9"),
    "Adam, 64 bits": ("--model.optimizer=Adam", "--model.optimizer.amsgrad=true", "--trainer.precision=64-true"),
    "AdamW, bfloat16": ("--model.optimizer=AdamW", "--trainer.precision=bf16-true", "--model.lr_schedule=cosine"),
    "averages": callback("EMAWeightAveraging", "update_every_n_steps=1"),
    "callbacks": (
        *callback("EarlyStopping", "monitor=val/loss"),
        *callback("ModelCheckpoint", "monitor=val/loss", "save_top_k=2"),
        *callback("Timer", "duration=00:01:00:00"),
        *callback("LearningRateMonitor"),
    ),
    "a network": ("--model.network", "odd.Odd", "--trainer.limit_train_batches=1"),
}


@pytest.mark.parametrize("options", RUNS)
def test_what_a_run_saves_is_read_as_torch_reads_it(workplace, cli, monkeypatch, options):
    (workplace / "odd.py").write_text(CODE)
    monkeypatch.syspath_prepend(workplace)
    args = RUNS[options] if options == "a network" else ("--model.hidden_dims=[4]", *RUNS[options])
    code, _, err = cli("fit", *SMALL, *args)
    assert (code, err) == (0, "")
    saved = [*RUN.glob("checkpoints/*.ckpt")]
    assert len(saved) >= 2
    for path in saved:
        assert_same(read_archive(path), torch.load(path, weights_only=True))


def test_every_kind_of_tensor_and_value_is_read_as_torch_reads_it(tmp_path):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    first, *others = network.parameters()
    groups = [{"params": [first], "lr": torch.tensor(0.1)}, {"params": others, "betas": (0.8, 0.9)}]
    optimizer = torch.optim.AdamW(groups, amsgrad=True)
    network(torch.rand(5, 3)).square().sum().backward()
    optimizer.step()
    grid = torch.arange(12.0).reshape(3, 4)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool, torch.int8)
    kinds += (torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    content = {
        "state_dict": network.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "tensors": [torch.arange(3).to(kind) for kind in kinds],
        "views": [grid, grid.T, grid[1:, 1:], grid[0, 0], grid[:0], torch.zeros(0), torch.zeros(0, 3)],
        "plain": [
            None,
            True,
            -1,
            300,
            2**20,
            2**40,
            -(2**31),
            0.5,
            float("inf"),
            "\u00e9",
            (),
            (1,),
            (1, 2),
            (1,) * 4,
            [],
            {},
        ],
    }
    content["again"] = content["plain"]
    torch.save(content, tmp_path / "any.ckpt")
    assert_same(read_archive(tmp_path / "any.ckpt"), torch.load(tmp_path / "any.ckpt", weights_only=True))


@pytest.mark.signals
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "pipe.ckpt", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is not a file"):
            read_archive(path)


@pytest.mark.signals
def test_a_file_of_200_gb_that_holds_nothing_is_not_read(tmp_path):
    with (tmp_path / "sparse.ckpt").open("wb") as file:
        file.truncate(200 * 10**9)
    start = time.process_time()
    with pytest.raises(ValueError, match="is larger than 4,295 MB"):
        read_archive(tmp_path / "sparse.ckpt")
    assert time.process_time() - start < 1
