"""How far a reconstruction is from its original: terms by name, unweighted.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.trainers.losses.perceptual import PerceptualLoss
from smalti.trainers.losses.wavelet import WaveletLoss

RECONSTRUCTION = ("l1", "mse", "perceptual", "wavelet")
"""The names of `reconstruction_terms`."""


def reconstruction_terms(
    x: Tensor, y: Tensor, perceptual: PerceptualLoss | None = None, wavelet: WaveletLoss | None = None
) -> dict[str, Tensor]:
    """The scalars `l1` and `mse`, and `perceptual` and `wavelet` where they are given.

    Args:
        x: originals (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
        y: reconstructions of that shape.
        perceptual: sees frames as images; None leaves the term out.
        wavelet: sees clips; None leaves the term out.
    """
    x, y = x.float(), y.float()
    terms = {"l1": F.l1_loss(y, x), "mse": F.mse_loss(y, x)}
    if perceptual is not None:
        terms["perceptual"] = perceptual(y, x)
    if wavelet is not None:
        terms["wavelet"] = wavelet(y, x)
    return terms


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The one place where terms are weighed and added.

    Args:
        terms: scalars by name.
        weights: by the same names; a term without a weight is watched, not trained on.

    Raises:
        SmaltiError: a weight for a term that is not there: a misspelt weight must not train something else silently.
    """
    unknown = sorted(weights.keys() - terms.keys())
    if unknown:
        raise SmaltiError(
            f"The recipe weighs a loss '{unknown[0]}' that this model does not have: its losses are "
            f"{', '.join(sorted(terms))}."
        )
    return torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
