"""Which pixels decided: what covering them does to the probability of a class."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist.model.trained import TrainedModel

SIZE = 5  # pixels of a side of the square that covers
FOR, AGAINST = (255, 96, 32), (48, 128, 255)  # colours of pixels that speak for a class, and against it
OPACITY = 210 / 255  # of the pixel that decides most


def occlude(model: TrainedModel, image: Tensor, label: int | None = None, probability: float | None = None) -> Tensor:
    """Computes how much each pixel speaks for a class (occlusion, Zeiler & Fergus 2014, arXiv:1311.2901).

    A black square of 5 x 5 pixels is put on every place. A pixel is worth what the logarithm of the probability
    loses, in the mean over the squares that cover it.

    Args:
        model: A trained model.
        image: uint8 (1, 28, 28).
        label: The class; the most probable one if not given.
        probability: That of the class, if it has been computed.

    Returns:
        float (28, 28) on the CPU, in nats: above 0 where a pixel speaks for the class.
    """
    side = image.shape[-1]
    rows = torch.arange(side)
    near = (rows[:, None] - rows).abs() <= SIZE // 2  # (28, 28): square at, pixel
    squares = (near[:, None, :, None] & near[None, :, None, :]).reshape(side * side, 1, side, side)
    covered = torch.where(squares, torch.zeros_like(image), image)
    with torch.inference_mode():
        device = model.temperature.device
        if label is None or probability is None:
            probabilities = model(image[None].to(device))[0]
            label = int(probabilities.argmax()) if label is None else label
            probability = float(probabilities[label])
        without = model.predict_in_batches(covered).probabilities[:, label]
        loss = torch.tensor(probability, dtype=without.dtype).log() - without.log()
    kernel = torch.ones(1, 1, SIZE, SIZE, dtype=loss.dtype)
    loss = loss.clamp(-30, 30).view(side, side)
    maps = torch.stack([loss, torch.ones_like(loss)])[:, None]
    total, count = F.conv2d(maps, kernel, padding=SIZE // 2)
    worth: Tensor = total / count
    return worth[0]


def paint(image: Tensor, worth: Tensor) -> Tensor:
    """Colours an image by what ``occlude`` returned: orange speaks for the class, blue against it.

    Args:
        image: uint8 (1, 28, 28).
        worth: float (28, 28).

    Returns:
        uint8 (28, 28, 3).
    """
    share = OPACITY * (worth.abs() / worth.abs().max().clamp_min(1e-9))[..., None]
    colour = torch.where(worth[..., None] > 0, torch.tensor(FOR), torch.tensor(AGAINST))
    return ((1 - share) * image[0][..., None] + share * colour).round().to(torch.uint8)


def draw(model: TrainedModel, image: Tensor, label: int, probability: float) -> Tensor:
    """Draws an image next to what its class rests on, eight times as large: uint8 (224, 456, 3)."""
    grey = image[0][..., None].expand(-1, -1, 3)
    gap = torch.full((len(grey), 1, 3), 255, dtype=torch.uint8)
    both = torch.cat([grey, gap, paint(image, occlude(model, image, label, probability))], 1)
    return both.repeat_interleave(8, 0).repeat_interleave(8, 1)
