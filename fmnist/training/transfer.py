"""A training that begins with the weights of another one."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from torch import nn

from fmnist.errors import UserError, check
from fmnist.model.trained import MLP_SETTINGS
from fmnist.runs.checkpoint import read_values
from fmnist.runs.folder import find_checkpoint


class Origin:
    """A trained network that another training begins with: a fresh optimizer, epoch 0.

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

    def give_pixels_to(self, settings: MutableMapping[str, Any]) -> None:
        """Sets mean and standard deviation of the pixels, where they are None, to those that the network is used to."""
        for name in ("mean", "std"):
            settings[name] = self.settings[name] if settings[name] is None else settings[name]

    def give_to(self, network: nn.Module, class_names: list[str]) -> str:
        """Copies the weights; the last layer is left as it was drawn, if it is for other classes.

        Args:
            network: A new network.
            class_names: Its classes.

        Returns:
            What has been done, in a few words.

        Raises:
            UserError: It is another network.
        """
        new = network.state_dict()
        last = [name for name, _ in network.named_parameters()][-1].rpartition(".")[0]
        same = class_names == self.settings["class_names"]
        taken = {name: w for name, w in self.weights.items() if same or name.rpartition(".")[0] != last}
        fits = new.keys() == self.weights.keys() and all(new[name].shape == w.shape for name, w in taken.items())
        check(fits, f"model.weights: {self.path} is of another network: give this one the same, {self._describe()}")
        network.load_state_dict({**new, **taken})
        others = "" if same else f"; the last layer is new, for {len(class_names)} classes"
        return f"weights: {self.path} (epoch {self.epochs}){others}"

    def _describe(self) -> str:
        """Returns the flags of the network."""
        if described := self.settings.get("network"):
            return f"--model.network {described['class_path'] if isinstance(described, dict) else described}"
        flags = ((name, str(self.settings.get(name)).replace(" ", "")) for name in MLP_SETTINGS)
        return " ".join(f"--model.{name} {value}" for name, value in flags)
