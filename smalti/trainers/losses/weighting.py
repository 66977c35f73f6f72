"""Combining losses by name into the one that is minimized."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import SmaltiError


def merge_losses(losses: dict[str, Tensor], bottleneck_losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the reconstruction losses and those of the bottleneck.

    Args:
        losses: scalars by name.
        bottleneck_losses: scalars by other names.

    Raises:
        SmaltiError: both have a loss of one name.
    """
    for name in bottleneck_losses:
        if name in losses:
            raise SmaltiError(
                f"A loss of the recipe is named '{name}', but the bottleneck has a loss of that name: choose another one."
            )
    return losses | bottleneck_losses


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum the weighted losses. This is the only place where losses are weighted.

    Args:
        losses: scalars by name.
        weights: weights by the same names. A loss without a weight is logged but not trained on.

    Raises:
        SmaltiError: a weight for a loss that does not exist. A misspelled weight must not silently change the training.
    """
    unknown = sorted(weights.keys() - losses.keys())
    if unknown:
        raise SmaltiError(
            f"The recipe has a weight for the loss '{unknown[0]}', which this model does not compute: its losses are "
            f"{', '.join(sorted(losses))}."
        )
    return torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
