"""Several trained models that answer as one."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmnist.model.trained import Output, TrainedModel, calibrate


class Ensemble(TrainedModel):
    """The mean of the calibrated probabilities of trained models (deep ensembles, Lakshminarayanan et al. 2017).

    Its logits are the logarithm of that mean; https://arxiv.org/abs/1612.01474.

    Args:
        models: The members, of the same classes and image shape.
    """

    network: Any

    def __init__(self, models: Sequence[TrainedModel]) -> None:
        super().__init__(nn.ModuleList(models), models[0].class_names, image_shape=models[0].image_shape)

    def predict(self, images: Tensor) -> Output:
        """Computes what ``TrainedModel.predict`` does, and the logits of the members; typicality is their mean."""
        outputs = [member.predict(images) for member in self.network]
        members = torch.stack([output.logits for output in outputs], 1)
        temperatures = torch.stack([member.temperature for member in self.network])[:, None]
        # Logarithms, in which no probability underflows to 0.
        logits = torch.log_softmax(members.float() / temperatures, 2).logsumexp(1) - math.log(len(outputs))
        known = [output.typicality for output in outputs if output.typicality is not None]
        typicality = torch.stack(known).mean(0) if len(known) == len(outputs) else None
        return Output(logits, calibrate(logits, self.temperature), typicality, members)
