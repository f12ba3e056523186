"""Logistic regression on two clouds of points, in five steps: data, model, loss, optimizer, training.

Run it with ``python examples/logistic_regression.py``: it trains until 99% of the points are on the
right side of the line, and draws that line as it moves, every 20 steps, into one picture.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

CENTERS = torch.tensor([[2.7, 2.7], [-0.7, -0.7]])  # 1.7 and -1.7 in both directions, moved by 1


def make_points(count: int = 100) -> tuple[Tensor, Tensor]:
    """Step 1, data: draws ``count`` points around each center, with a standard deviation of 1.

    Returns:
        Points, float (2 * count, 2), and their classes, float (2 * count,): 0 or 1.
    """
    points = torch.cat([center + torch.randn(count, 2) for center in CENTERS])
    return points, torch.arange(2.0).repeat_interleave(count)


class LogisticRegression(LightningModule):
    """A line that separates two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)  # step 2, model: logit = w1 x1 + w2 x2 + b
        self.lines: dict[int, tuple[float, float, float]] = {}  # w1, w2 and b every 20 steps

    def forward(self, points: Tensor) -> Tensor:
        """Maps points, float (B, 2), to logits, float (B,): positive where class 1 is more probable."""
        logits: Tensor = self.linear(points).squeeze(1)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch and logs the share of its points that are on the right side."""
        points, labels = batch
        logits = self(points)
        # Step 3, loss: binary cross-entropy. It takes logits, not the output of a sigmoid: log(sigmoid(z)) computed in
        # two steps is -inf for a large negative z, in one step it is z.
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        self.log("accuracy", ((logits > 0) == labels.bool()).float().mean(), on_epoch=True, on_step=False)
        if self.global_step % 20 == 0:
            w1, w2 = self.linear.weight[0].tolist()
            self.lines[self.global_step] = w1, w2, self.linear.bias.item()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Step 4, optimizer: gradient descent that keeps 0.9 of its last direction."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def draw(points: Tensor, labels: Tensor, lines: dict[int, tuple[float, float, float]], path: Path) -> None:
    """Draws the points, and the line where both classes are equally probable, w1 x1 + w2 x2 + b = 0: darker later."""
    figure, axes = plt.subplots()
    axes.scatter(*points.T.numpy(), c=labels.numpy(), cmap="coolwarm")
    for step, (w1, w2, b) in lines.items():
        axes.axline((0, -b / w2), slope=-w1 / w2, color="black", alpha=0.1 + 0.9 * step / max(lines))
    axes.set(title=f"the line every 20 steps, from 0 (light) to {max(lines)} (dark)", xlim=(-5, 7), ylim=(-5, 7))
    figure.savefig(path)
    plt.close(figure)


def main(picture: str = "logistic_regression.png") -> LogisticRegression:
    """Step 5, training: every epoch is one step on all points, until 99% of them are on the right side."""
    seed_everything(5)
    points, labels = make_points()
    model = LogisticRegression()
    stop = EarlyStopping("accuracy", mode="max", stopping_threshold=0.99, patience=1000, check_on_train_epoch_end=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1000, callbacks=[stop], **quiet)
    trainer.fit(model, DataLoader(TensorDataset(points, labels), batch_size=len(points)))
    draw(points, labels, model.lines, Path(picture))
    print(f"{trainer.callback_metrics['accuracy']:.1%} after {trainer.global_step} steps; the line: {picture}")
    return model


if __name__ == "__main__":
    main()
