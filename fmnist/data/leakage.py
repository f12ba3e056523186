"""Warnings for figures that are measured on images a network was trained on."""

from typing import Any

import torch
from torch import Tensor


def find_leakage(saved: dict[str, Any], split: str, digests: Tensor | None, part: str) -> list[str]:
    """Returns a line each for what is wrong with evaluating or training a network further on some data.

    Args:
        saved: State of the data module in the checkpoint: ``split`` and ``trained_on``.
        split: Digest of the split now; empty if nothing has been split.
        digests: A number for the content of each image that is evaluated, int64 (N,); None if the source tells none.
        part: What these images are: ``test`` or ``validation``.
    """
    lines = []
    before, seen = saved.get("split"), saved.get("trained_on")
    if before and split and before != split:
        lines.append(f"notice: the split of the data is {split}, in the training it was {before}")
    if isinstance(seen, Tensor) and digests is not None and (count := int(torch.isin(digests, seen).sum())):
        images = f"{count:,} of {len(digests):,} {part} images"
        lines.append(f"notice: {images} were trained on: the figures are too good")
    return lines
