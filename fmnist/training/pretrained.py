"""The weights of a trained network as the beginning of another training run."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from fmnist.errors import UserError, check
from fmnist.model.network import MLP_SETTINGS, NetworkFactory, find_head
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
            known = self.settings[name]
            fits = not isinstance(known, list) or len(known) == settings["image_shape"][0]
            settings[name] = known if settings[name] is None and fits else settings[name]

    def copy_weights(
        self, network: nn.Module, settings: Mapping[str, Any], factory: NetworkFactory | None = None
    ) -> None:
        """Copies the weights and prints a line; the head keeps its initial ones if it is for other classes.

        Args:
            network: A new network.
            settings: The hyper-parameters that it was built by.
            factory: What it was made by; None for the MLP.

        Raises:
            UserError: It is another network.
        """
        new, names = network.state_dict(), settings["class_names"]
        head = set() if names == self.settings["class_names"] else find_head(settings, factory)
        kept = {name: weights for name, weights in self.weights.items() if name not in head}
        fits = new.keys() == self.weights.keys() and all(new[name].shape == w.shape for name, w in kept.items())
        what = f"model.weights: {self.path} is of another network"
        check(fits, f"{what}: give this run the settings of that one, {self._describe()}")
        network.load_state_dict({**new, **kept})
        layers = sorted({name.removeprefix("1.").rpartition(".")[0] or name for name in head})
        others = f"; the head is new, for {len(names)} classes: {', '.join(layers)}" if head else ""
        rank_zero_only(print)(f"weights: {self.path} (epoch {self.epochs}){others}", flush=True)

    def _describe(self) -> str:
        if described := self.settings.get("network"):
            return f"--model.network {described['class_path'] if isinstance(described, dict) else described}"
        flags = ((name, str(self.settings.get(name)).replace(" ", "")) for name in MLP_SETTINGS)
        return " ".join(f"--model.{name} {value}" for name, value in flags)
