"""Combining named losses into the total loss."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from smalti.errors import SmaltiError


def check_reconstruction_weight(weights: dict[str, float], names: Iterable[str]) -> None:
    """Check that at least one reconstruction loss has a positive weight.

    Without one, the tokenizer never sees the originals and learns to produce gray.

    Args:
        weights: weights of all losses by name.
        names: names of the reconstruction losses.

    Raises:
        SmaltiError: none of them has a positive weight.
    """
    names = list(names)
    if not any(weights.get(name, 0) > 0 for name in names):
        weighted = ", ".join(f"'{name}'" for name in weights) or "none"
        raise SmaltiError(
            f"No reconstruction loss has a positive weight (losses with a weight: {weighted}), and the tokenizer would "
            f"learn nothing from its data: give one of {', '.join(names)} a weight in model.weights."
        )


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
