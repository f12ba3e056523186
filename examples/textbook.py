"""The network of the main job in a LightningModule as tutorials write it, on the same data.

Run it with ``python examples/textbook.py``. It is what ``docs/speed.md`` compares ``fmnist`` with, and the step between
the PyTorch quickstart and ``fmnist.ImageClassifier``, which adds calibration, history, checkpoints and the recipe.
"""

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fmnist import FashionMNISTDataModule


class Textbook(LightningModule):
    """A multilayer perceptron, 784-512-512-10, with the settings of the PyTorch quickstart."""

    def __init__(self) -> None:
        super().__init__()
        hidden = (nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
        self.network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, uint8 (B, 1, 28, 28), to logits, float (B, 10)."""
        logits: Tensor = self.network(images / 255)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Counts correct answers."""
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("val/acc", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    seed_everything(0)
    Trainer(max_epochs=5).fit(Textbook(), FashionMNISTDataModule(batch_size=64))
