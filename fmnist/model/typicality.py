"""Typicality: how much an image is like those of the training; a low one hints at none of the classes."""

from collections.abc import Mapping
from threading import get_ident

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 28  # pixels of a side that typicality sees
UNLIKE = 0.01  # typicality below which a picture is called unlike the training images
ENOUGH = 200  # validation images; fewer do not show what one in a hundred is
AXES = 32  # directions of a subspace
FLOOR = 0.15  # share of the mean standard deviation that is added to each: some pixels hardly vary
SWEEPS = 4  # towards the widest axes
SHARPNESS = 3.0  # of the sum, which is between the largest of its terms and their mean
LEVELS = 1000  # scores of validation images that are kept
WIDEST = 4096  # values of a last layer, above which fitting would take seconds
State = dict[str, Tensor]


class PenultimateFeatures:
    """Keeps the input of a network's last linear layer, for each thread separately.

    Args:
        network: Any network; there are no features of one without a linear layer.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        self.inputs: dict[int, Tensor] = {}
        # A bound method, not a closure: deepcopy copies this object too, and the hook of the copy writes to the copy.
        self.handle = layers[-1].register_forward_pre_hook(self._update) if layers else None

    def _update(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inputs[get_ident()] = inputs[0]

    def compute(self) -> Tensor | None:
        """Returns the features of the last batch, float (B, D), and drops them; None if there are none."""
        features = self.inputs.pop(get_ident(), None)
        if features is None or features.ndim < 2:
            return None
        return features if features.ndim == 2 else features.flatten(1, -2).mean(1)

    def remove(self) -> None:
        """Removes the hook."""
        if self.handle:
            self.handle.remove()


def forward_with_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns the logits of a batch, (B, num_classes), and its penultimate features, (B, D); None without any."""
    features = PenultimateFeatures(network)
    try:
        return network(images), features.compute()
    finally:
        features.remove()


class Typicality(nn.Module):
    """Computes the share of validation images that are less typical than an image.

    Three distances are added up: of the pixels and of the features that the last layer is given, each from a
    normal distribution that is spread along a few axes and even across them (probabilistic principal components,
    Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196), and of the highest logit from the others
    (Hendrycks et al. 2022, https://arxiv.org/abs/1911.11132). Each is counted in units of what validation images
    have. Digits differ in the features, noise and photographs in the pixels, empty images in the logits:
    ``benchmarks/typicality.py``.

    Args:
        state: What ``TypicalityFitter.fit`` returned.
    """

    levels: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """Maps a batch to the share of validation images that are less typical, from 0 to 1, float (B,).

        Args:
            images: uint8 or floats from 0 to 1, (B, C, H, W).
            features: What the last layer was given, float (B, D).
            logits: float (B, num_classes).
        """
        terms = self.stack(self.distance("pixels", _flatten(images)), features, logits)
        scores = self.add_up(terms)  # the higher, the less typical
        if torch.compiler.is_exporting():  # ONNX has no search; comparing with every level takes longer
            return (scores[:, None] < self.levels).float().mean(1)
        return 1 - torch.searchsorted(self.levels, scores, right=True) / len(self.levels)

    def add_up(self, terms: Tensor) -> Tensor:
        """Returns the sum of distances, float (B, 3), each in units of what validation images have, float (B,)."""
        return F.softplus(SHARPNESS * (terms - self.centre) / self.spread).sum(1)

    def stack(self, pixels: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """Returns the distances, float (B, 3), where those of the pixels are known, float (B,)."""
        logits = logits.float()
        return torch.stack([pixels, self.distance("features", features.float()), logits.mean(1) - logits.amax(1)], 1)

    def distance(self, name: str, values: Tensor) -> Tensor:
        """Returns the logarithm of the squared Mahalanobis distance, float (B,)."""
        gain, offset, axes = (getattr(self, f"{name}_{part}") for part in ("gain", "offset", "axes"))
        centred = torch.addcmul(offset, values, gain)
        distance: Tensor = centred.square().sum(1) - (centred @ axes).square().sum(1)
        return distance.clamp_min(1e-6).log()


class TypicalityFitter:
    """Fits a ``Typicality`` to validation images, epoch after epoch; to their pixels only once."""

    def __init__(self) -> None:
        self.available = True  # whether the network has features for it
        self.state: State = {}
        self.images: Tensor | None = None
        self.pixels: State = {}
        self.distances = torch.empty(0)  # of the pixels of every second image

    def fit(self, images: Tensor, features: Tensor | None, logits: Tensor) -> State:
        """Fits distributions to one half of the images, and what is usual to the other.

        Args:
            images: uint8 or floats from 0 to 1, (N, C, H, W), on the CPU like the others.
            features: float (N, D); None without any.
            logits: float (N, num_classes).

        Returns:
            Tensors by name, for a checkpoint, which are kept as ``state``; none if there are too few images, no
            features, or if they are not finite.
        """
        self.state = {}
        if features is None or len(images) < ENOUGH or features.shape[1] > WIDEST:
            return self.state
        if not (features.isfinite().all() and logits.isfinite().all()):
            return self.state
        if self.images is None or not torch.equal(images, self.images):
            self.images, self.pixels = images, _subspace("pixels", _flatten(images[::2]))
            self.distances = Typicality(self.pixels).distance("pixels", _flatten(images[1::2]))
        state = {**self.pixels, **_subspace("features", features[::2].float())}
        terms = Typicality(state).stack(self.distances, features[1::2], logits[1::2])
        state["centre"] = terms.median(0).values
        state["spread"] = (terms.quantile(0.9, dim=0) - state["centre"]).clamp_min(1e-6)
        scores = Typicality(state).add_up(terms)
        ranks = (torch.arange(LEVELS, dtype=scores.dtype) + 0.5) / LEVELS
        levels = scores.quantile(ranks) if len(scores) > LEVELS else scores.sort().values
        self.state = {**state, "levels": levels}
        return self.state


def shrink(images: Tensor) -> Tensor:
    """Reduces images, uint8 or floats from 0 to 1, (B, C, H, W), to grey floats, (B, 1, 28, 28); those of 28 x 28 stay.

    The pixels of a large picture in colour are too many for a distribution of them.
    """
    height, width = images.shape[2:]
    if images.shape[1:] == (1, SIDE, SIDE):
        return images
    grey = images.float().mean(1, keepdim=True) / (1 if images.is_floating_point() else 255)
    return _averages(height).to(grey) @ grey @ _averages(width).to(grey).T


def _averages(size: int) -> Tensor:
    """Returns the share of each pixel of a row in 28 equal parts of it, float (28, size)."""
    edges, pixels = torch.arange(SIDE + 1, dtype=torch.float32) * (size / SIDE), torch.arange(size)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_min(0) * (SIDE / size)


def _flatten(images: Tensor) -> Tensor:
    values = shrink(images).flatten(1)
    return values if values.is_floating_point() else values.float() / 255


def _subspace(name: str, values: Tensor) -> State:
    """Fits a normal distribution, (N, D), along its widest axes and even across the others."""
    mean = values.mean(0)
    centred = values - mean
    deviation = (centred.square().sum(0) / (len(values) - 1)).sqrt()  # std() takes ten times as long
    scale = deviation + FLOOR * deviation.mean() + 1e-6
    centred /= scale
    count = min(AXES, values.shape[1] - 1, len(values) // 4)
    start = torch.Generator().manual_seed(0)
    shape = (values.shape[1], min(count + 16, values.shape[1]))
    axes = torch.randn(*shape, generator=start, dtype=values.dtype)
    for _ in range(SWEEPS):  # subspace iteration: all axes of a wide layer would take many seconds
        axes = torch.linalg.qr(centred.T @ (centred @ axes)).Q
    along = centred @ axes
    variances, turn = torch.linalg.eigh(along.T @ along / len(values))  # ascending
    wide, axes = variances[len(turn) - count :], axes @ turn[:, len(turn) - count :]
    even = ((centred.square().mean(0).sum() - wide.sum()) / (values.shape[1] - count)).clamp_min(1e-6)
    wide = wide.clamp_min(even)
    # (x - mean)^2 / even, less what the axes explain: sum of z^2 (1 / even - 1 / variance)
    axes = axes * (1 - even / wide).sqrt()
    gain = 1 / (scale * even.sqrt())
    return {f"{name}_gain": gain, f"{name}_offset": -mean * gain, f"{name}_axes": axes.contiguous()}
