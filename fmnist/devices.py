"""The device that Lightning chooses, and what it can do."""

from typing import Any

import torch

from fmnist.errors import check

CANDIDATES = {  # devices in Lightning's order of preference, by accelerator
    "auto": ("cuda", "mps", "cpu"),
    "gpu": ("cuda", "mps"),
    "cpu": ("cpu",),
    "cuda": ("cuda",),
    "mps": ("mps",),
}


def find_device(accelerator: Any) -> str | None:
    """Returns the device that Lightning chooses for an accelerator; None for accelerators that only Lightning knows."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return next((device for device in CANDIDATES.get(accelerator, ()) if found[device]), None)


def check_device(accelerator: Any) -> None:
    """Raises a ``UserError`` where this machine lacks the device that is asked for."""
    missing = accelerator in CANDIDATES and find_device(accelerator) is None
    check(not missing, f"no {accelerator} found on this machine: leave out --trainer.accelerator")


def has_bfloat16(device: str) -> bool:
    """Returns whether a device computes in bfloat16; others can, with float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.11
    return device == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
