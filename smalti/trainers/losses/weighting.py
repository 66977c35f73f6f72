"""Combining named losses into the total loss."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import SmaltiError


def merge_losses(losses: dict[str, Tensor], bottleneck_losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the reconstruction losses and the losses of the bottleneck.

    Args:
        losses: scalars by name.
        bottleneck_losses: scalars by name.

    Raises:
        SmaltiError: a name is in both.
    """
    for name in bottleneck_losses:
        if name in losses:
            raise SmaltiError(
                f"A loss of the recipe is named '{name}', but the bottleneck has a loss of the same name: choose another "
                "name in model.losses."
            )
    return losses | bottleneck_losses


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum the weighted losses. This is the only place where losses are weighted.

    Args:
        losses: scalars by name.
        weights: weights by the same names, at least one. A loss without a weight does not contribute.

    Raises:
        SmaltiError: there is no weight, or a weight for a loss that does not exist. A misspelled name must not silently
            change the training.
    """
    if not weights:
        raise SmaltiError(f"No loss has a weight: set model.weights for some of {', '.join(sorted(losses))}.")
    unknown = sorted(weights.keys() - losses.keys())
    if unknown:
        raise SmaltiError(
            f"The recipe has a weight for the loss '{unknown[0]}', which this model does not compute: use the losses "
            f"{', '.join(sorted(losses))}."
        )
    return torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
