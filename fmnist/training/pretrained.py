"""The weights of a trained network as the beginning of another training run."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from fmnist.errors import UserError, check
from fmnist.model.trained import MLP_SETTINGS
from fmnist.runs.checkpoint import read_values
from fmnist.runs.folder import find_checkpoint


class Pretrained:
    """A trained network that a new one takes its weights from.

    Args:
        checkpoint: A checkpoint or a run, as ``--ckpt_path`` takes it.

    Raises:
        UserError: There is none, or it is damaged.
    """

    def __init__(self, checkpoint: str) -> None:
        try:
            self.path = find_checkpoint(checkpoint, Path())
            saved = read_values(self.path)
        except UserError as error:
            raise UserError(str(error).replace("--ckpt_path", "--model.weights")) from error
        self.settings, self.epochs = saved["hyper_parameters"], saved["epoch"] + 1
        named = saved["state_dict"].items()
        self.weights = {name.removeprefix("network."): w for name, w in named if name.startswith("network.")}

    def copy_pixel_statistics(self, settings: MutableMapping[str, Any]) -> None:
        """Sets mean and standard deviation of the pixels, where they are None, to those of the pretrained network."""
        for name in ("mean", "std"):
            settings[name] = self.settings[name] if settings[name] is None else settings[name]

    def copy_weights(self, network: nn.Module, class_names: list[str]) -> None:
        """Copies the weights and prints a line; the last layer keeps its initial ones if it is for other classes.

        Args:
            network: A new network.
            class_names: Its classes.

        Raises:
            UserError: It is another network.
        """
        new = network.state_dict()
        last = [name for name, _ in network.named_parameters()][-1].rpartition(".")[0]
        same = class_names == self.settings["class_names"]
        kept = {name: w for name, w in self.weights.items() if same or name.rpartition(".")[0] != last}
        fits = new.keys() == self.weights.keys() and all(new[name].shape == w.shape for name, w in kept.items())
        check(fits, f"model.weights: {self.path} is of another network: give this one the same, {self._describe()}")
        network.load_state_dict({**new, **kept})
        others = "" if same else f"; the last layer is new, for {len(class_names)} classes"
        rank_zero_only(print)(f"weights: {self.path} (epoch {self.epochs}){others}", flush=True)

    def _describe(self) -> str:
        """Returns the flags of the network."""
        if described := self.settings.get("network"):
            return f"--model.network {described['class_path'] if isinstance(described, dict) else described}"
        flags = ((name, str(self.settings.get(name)).replace(" ", "")) for name in MLP_SETTINGS)
        return " ".join(f"--model.{name} {value}" for name, value in flags)
