"""What calibration does with few validation images, on networks trained on many images and on few.

    python benchmarks/calibration.py [--seeds 5] [--root data] [--priors 0 30] [--test]

Networks are trained on seeds 0 to N - 1. Each is calibrated on random subsets of images that it was not
trained on; the table says by how much the cross-entropy of other images changes (less than 0 is better):
the mean over all networks and subsets, and the worst of them. These others are training images that no part
of a training has seen, or with ``--test`` the test images. A prior of 0 is the maximum of the likelihood.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from fmnist import FashionMNIST, FashionMNISTDataModule, load
from fmnist.__main__ import main as fmnist
from fmnist.model.calibration import fit_temperature

MAIN = Path(__file__).parent.parent / "configs" / "mlp.yaml"
NETWORKS = {
    "mlp.yaml on 50,000 images": (10_000, ("--config", str(MAIN))),
    "on 240 images": (59_760, ("--config", str(MAIN), "--data.batch_size=24", "--trainer.check_val_every_n_epoch=40")),
}
SIZES = (24, 100, 500, 5000)
SUBSETS = 20


def main() -> None:
    """Trains, calibrates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--root", default="data", help="folder of the data set")
    parser.add_argument("--priors", type=float, nargs="+", default=[0.0, 30.0])
    parser.add_argument("--test", action="store_true", help="judge by the test images")
    args = parser.parse_args()
    rows = [f"| network | images | {' | '.join(f'prior {prior:g}: mean | worst' for prior in args.priors)} |"]
    rows.append("| --- | --- |" + " ---: | ---: |" * len(args.priors))
    for name, (val_size, words) in NETWORKS.items():
        outputs = [measure(val_size, [*words, f"--seed_everything={seed}"], args) for seed in range(args.seeds)]
        for size in SIZES:
            found = [changes(outputs, size, prior) for prior in args.priors]
            cells = " | ".join(f"{change.mean():+.4f} | {change.max():+.4f}" for change in found)
            rows.append(f"| {name} | {size:,} | {cells} |")
    print("\n" + "\n".join(rows))


def measure(val_size: int, words: list[str], args: argparse.Namespace) -> tuple[torch.Tensor, ...]:
    """Trains a network; returns logits and labels of images to calibrate on, and of others."""
    with tempfile.TemporaryDirectory() as folder:
        where = [f"--data.source.root={args.root}", f"--trainer.default_root_dir={folder}"]
        assert fmnist(["fit", *words, f"--data.val_size={val_size}", *where]) == 0
        network = load(Path(folder) / "lightning_logs/version_0/checkpoints/best.ckpt").model.network
    data = FashionMNISTDataModule(FashionMNIST(args.root), val_size=val_size)
    data.setup("validate")
    assert data.val_set is not None
    images, labels = data.val_set.images, data.val_set.labels
    other, actual = FashionMNIST(args.root).load(train=False) if args.test else (images[5000:], labels[5000:])
    with torch.inference_mode():
        return network(images[:5000]), labels[:5000], network(other[:10_000]), actual[:10_000]


def changes(outputs: list[tuple[torch.Tensor, ...]], size: int, prior: float) -> torch.Tensor:
    """Returns the change of the others' cross-entropy for every network and subset, (networks * SUBSETS,)."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for logits, labels, other, actual in outputs:
        for _ in range(SUBSETS if size < len(labels) else 1):
            chosen = torch.randperm(len(labels), generator=generator)[:size]
            temperature = fit_temperature(logits[chosen], labels[chosen], prior)
            found.append(F.cross_entropy(other / temperature, actual) - F.cross_entropy(other, actual))
    return torch.stack(found)


if __name__ == "__main__":
    main()
