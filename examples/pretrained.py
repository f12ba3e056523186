"""A network of torchvision that has seen other pictures: ``python -m fmnist fit --config configs/pretrained.yaml``."""

from typing import Any

import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn


class Backbone(nn.Module):
    """A network of torchvision, with a new last layer.

    Maps normalized images, float (B, 1 or 3, H, W), to logits, float (B, num_classes). It is built without the weights,
    which ``FineTune`` reads when a new run begins: whoever loads a checkpoint needs none but its own.

    Args:
        num_classes: Number of outputs.
        name: A network that ``torchvision.models`` classifies with.
        weights: ``DEFAULT`` downloads torchvision's; or a file of a state_dict of this network; or null for none.
        frozen_epochs: Epochs in which only the last layer is trained.
    """

    def __init__(
        self, num_classes: int, name: str = "resnet18", weights: str | None = "DEFAULT", frozen_epochs: int = 3
    ) -> None:
        super().__init__()
        self.name, self.weights, self.frozen_epochs = name, weights, frozen_epochs
        self.backbone = torchvision.models.get_model(name, weights=None)
        layers = [(path, layer) for path, layer in self.backbone.named_modules() if isinstance(layer, nn.Linear)]
        self.last, last = layers[-1]
        self.backbone.set_submodule(self.last, nn.Identity())
        self.head = nn.Linear(last.in_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits; grey ones become red, green and blue."""
        logits: Tensor = self.head(self.backbone(images.expand(-1, 3, -1, -1)))
        return logits

    def read_weights(self) -> None:
        """Reads the weights of all layers but the last."""
        if self.weights == "DEFAULT":
            state: dict[str, Any] = torchvision.models.get_model_weights(self.name).DEFAULT.get_state_dict()
        else:
            state = torch.load(str(self.weights), weights_only=True, map_location="cpu")
        self.backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith(self.last)})


class FineTune(Callback):
    """Reads the weights of a ``Backbone`` when a new run begins, and trains only its last layer for some epochs."""

    has_newer = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learns that a run is continued."""
        self.has_newer = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the weights, unless a checkpoint or ``model.weights`` has newer ones."""
        network = pl_module.network[1]
        if network.weights and not self.has_newer and not pl_module.is_pretrained:
            network.read_weights()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freezes the backbone, its batch normalization too, or lets it learn."""
        network = pl_module.network[1]
        learns = trainer.current_epoch >= network.frozen_epochs
        network.backbone.requires_grad_(learns).train(learns)
