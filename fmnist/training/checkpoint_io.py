"""Checkpoints that are written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fmnist.files import write_whole
from fmnist.runs.checkpoint import Checkpoint, read_saved


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and moves them there when they have reached the disk.

    Lightning writes to the system's folder for temporary files, which can be another disk: moving a
    file from there is copying it, and a crash in the middle would cost the previous checkpoint.
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> Checkpoint:
        """Reads what ``save_checkpoint`` has saved, as every other reader does: the arguments make no difference."""
        return read_saved(Path(path))

    def save_checkpoint(self, checkpoint: Checkpoint, path: str | Path, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` as ``path``."""
        if Path(path).name.startswith("hpc_ckpt_"):
            return  # Lightning's SLURM plugin saves in the middle of an epoch; a run continues after whole ones
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())  # a view of it could not be given back when writing fails
