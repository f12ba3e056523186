"""Whether what is shown as the reason is one: two checks of maps of which pixels decided.

    python benchmarks/explain.py RUN [RUN ...] [--root data] [--images 200]

Deletion: the tenth of the pixels that speak most for the predicted class is made black, and, beside it, a tenth
drawn from all others that are not black; the table says what is left of the probability in the mean. Sanity (Adebayo
et al. 2018, https://arxiv.org/abs/1810.03292): the weights of every layer are shuffled; a map that shows what the
network has learned must change, so the rank correlation with the map of before should be low. Gradient times input
is compared with the occlusion that the package uses.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from statistics import mean

import torch
from torch import Tensor

from fmnist import FashionMNIST, load
from fmnist.model.explain import occlude
from fmnist.model.trained import TrainedModel

TENTH = 78  # of 784 pixels
Method = Callable[[TrainedModel, Tensor, int], Tensor]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, or checkpoints")
    parser.add_argument("--root", default="data", help="folder of the data set")
    parser.add_argument("--images", type=int, default=200, help="test images (default 200)")
    args = parser.parse_args()
    images = FashionMNIST(args.root).load(train=False)[0][: args.images]
    print("| map | original | top 10% blacked out | other 10% blacked out | correlation after shuffling the weights |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, method in (("occlusion", occlude), ("gradient times input", gradient_times_input)):
        rows = [row for run in args.runs for row in check(load(run).model, images, method)]
        columns = " | ".join(f"{mean(column):.3f}" for column in zip(*rows, strict=True))
        print(f"| {name} | {columns} |")


def gradient_times_input(model: TrainedModel, image: Tensor, label: int) -> Tensor:
    """Returns what a pixel adds to the logarithm of a class's probability, to first order; float (28, 28)."""
    floats = (image[None].float() / 255).requires_grad_()
    model(floats).log()[0, label].backward()
    assert floats.grad is not None
    return (floats.grad * floats.detach())[0, 0]


def check(model: TrainedModel, images: Tensor, method: Method) -> list[tuple[float, ...]]:
    """Returns, for each image, the three probabilities and the correlation."""
    generator = torch.Generator().manual_seed(0)
    shuffled = deepcopy(model)
    for weights in shuffled.parameters():
        weights.data = weights.data.flatten()[torch.randperm(weights.numel(), generator=generator)].view_as(weights)
    found = []
    for image in images:
        probabilities = model(image[None])[0]
        label = int(probabilities.argmax())
        worth = method(model, image, label).flatten()
        order = worth.argsort(descending=True)
        others = order[TENTH:][image.flatten()[order[TENTH:]] > 0]
        drawn = others[torch.randperm(len(others), generator=generator)[:TENTH]]
        left = [model(blacken(image, pixels)[None])[0, label].item() for pixels in (order[:TENTH], drawn)]
        again = method(shuffled, image, label).flatten()
        ranks = torch.stack([values.argsort().argsort().double() for values in (worth, again)])
        found.append((probabilities[label].item(), *left, torch.corrcoef(ranks)[0, 1].item()))
    return found


def blacken(image: Tensor, pixels: Tensor) -> Tensor:
    """Returns an image with some pixels black."""
    made = image.flatten().clone()
    made[pixels] = 0
    return made.view_as(image)


if __name__ == "__main__":
    main()
