"""Several trained models that answer as one."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmnist.model.trained import TrainedModel


class Ensemble(nn.Module):
    """Takes the mean of what trained models say (deep ensembles, Lakshminarayanan et al. 2017, arXiv:1612.01474).

    It is a network as others are: it maps images, uint8 (B, 1, 28, 28), to logits, float (B, num_classes), whose
    softmax is the mean of the calibrated probabilities of its members.

    Args:
        models: The members, of the same classes.
    """

    def __init__(self, models: Sequence[TrainedModel]) -> None:
        super().__init__()
        self.models: Any = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to the logarithm of the mean of the probabilities, which no small one can make infinite."""
        known = [torch.log_softmax(model.network(images).float() / model.temperature, 1) for model in self.models]
        logits: Tensor = torch.stack(known).logsumexp(0) - math.log(len(known))
        return logits

    def typicality(self, images: Tensor) -> Tensor | None:
        """Returns the mean of the members' typicality, float (B,); None if one of them does not know it."""
        shares = [model.judge(images)[1] for model in self.models]
        known = [share for share in shares if share is not None]
        return torch.stack(known).mean(0) if len(known) == len(shares) else None
