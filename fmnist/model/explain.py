"""Which pixels decided: what covering them does to the probability of a class."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist.model.trained import TrainedModel

SIZE, CELLS = 5, 28  # sides of the square that covers, and of an image, in cells: at 28 x 28 a cell is a pixel
FOR, AGAINST = (255, 96, 32), (48, 128, 255)  # colours of pixels that speak for a class, and against it
HEIGHT = 224  # pixels of a drawing
OPACITY = 210 / 255  # of the pixel that decides most


def occlude(model: TrainedModel, image: Tensor, label: int | None = None, probability: float | None = None) -> Tensor:
    """Computes how much each pixel speaks for a class (occlusion, Zeiler & Fergus 2014, arXiv:1311.2901).

    A black square of 5 x 5 cells, of which an image has at most 28 x 28, is put on every place. A pixel is worth what
    the logarithm of the probability loses, in the mean over the squares that cover it.

    Args:
        model: A trained model.
        image: uint8 (C, H, W).
        label: The class; the most probable one if not given.
        probability: That of the class, if it has been computed.

    Returns:
        float (H, W) on the CPU, in nats: above 0 where a pixel speaks for the class.
    """
    sides = image.shape[1:]
    cells = [torch.arange(side) * min(side, CELLS) // side for side in sides]  # the cell of each row, of each column
    down, across = ((torch.arange(int(cell[-1]) + 1)[:, None] - cell).abs() <= SIZE // 2 for cell in cells)
    squares = (down[:, None, :, None] & across[None, :, None, :]).reshape(-1, 1, *sides)
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
    loss = loss.clamp(-30, 30).view(len(down), len(across))
    maps = torch.stack([loss, torch.ones_like(loss)])[:, None]
    total, count = F.conv2d(maps, kernel, padding=SIZE // 2)
    worth: Tensor = (total / count)[0]
    return worth[cells[0]][:, cells[1]]


def paint(image: Tensor, worth: Tensor) -> Tensor:
    """Colours an image by what ``occlude`` returned: orange speaks for the class, blue against it.

    Args:
        image: uint8 (C, H, W).
        worth: float (H, W).

    Returns:
        uint8 (H, W, 3).
    """
    share = OPACITY * (worth.abs() / worth.abs().max().clamp_min(1e-9))[..., None]
    colour = torch.where(worth[..., None] > 0, torch.tensor(FOR), torch.tensor(AGAINST))
    return ((1 - share) * image.movedim(0, -1) + share * colour).round().to(torch.uint8)


def draw(model: TrainedModel, image: Tensor, label: int, probability: float) -> Tensor:
    """Draws an image next to what its class rests on, about 224 pixels high: uint8 (224, 456, 3) for 28 x 28."""
    pixels = image.movedim(0, -1).expand(-1, -1, 3)
    gap = torch.full((len(pixels), 1, 3), 255, dtype=torch.uint8)
    both = torch.cat([pixels, gap, paint(image, occlude(model, image, label, probability))], 1)
    scale = max(1, HEIGHT // len(pixels))
    return both.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
