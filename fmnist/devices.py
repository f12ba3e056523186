"""Devices that there are."""

from typing import Any

import torch

ASKED = {
    "auto": ("cuda", "mps", "cpu"),
    "gpu": ("cuda", "mps"),
    "cpu": ("cpu",),
    "cuda": ("cuda",),
    "mps": ("mps",),
}


def find_device(accelerator: Any) -> str | None:
    """Returns what Lightning chooses for an accelerator; None for what only Lightning knows."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return next((device for device in ASKED.get(accelerator, ()) if found[device]), None)
