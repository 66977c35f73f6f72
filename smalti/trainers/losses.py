"""How far a reconstruction is from its original: terms by name, unweighted.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.perceptual import perceptual_network
from smalti.trainers.wavelets import WaveletLoss

RECONSTRUCTION = ("l1", "mse", "perceptual", "wavelet")
"""The names of `reconstruction_terms`."""


class PerceptualLoss(nn.Module):
    """Mean perceptual distance of a batch, by a fixed network that is no part of what is trained.

    The network follows this module from device to device, but is not among its parameters: checkpoints, moving averages
    and data parallelism never see it.

    Args:
        network: "lpips_vgg", "lpips_alex" or "efflite0", see `smalti.eval.perceptual`.
        weights: file or folder of the backbone's weights; None: see `smalti.eval.weights.resolve`.
        stand_in: where the weights cannot be had, train with EfficientNet-Lite0 and say so in the log.
        frames_per_clip: look at so many frames of a clip, drawn anew in each step: all of a long clip's are costly, and
            neighbours look alike. None: at all.

    Raises:
        SmaltiError: the weights cannot be had, an unknown network, or no frame to look at.
    """

    def __init__(
        self,
        network: str = "lpips_vgg",
        weights: Path | None = None,
        *,
        stand_in: bool = True,
        frames_per_clip: int | None = None,
    ) -> None:
        super().__init__()
        if frames_per_clip is not None and frames_per_clip < 1:
            raise SmaltiError(
                f"frames_per_clip is {frames_per_clip}: the perceptual loss needs at least 1, or leave it out for all."
            )
        self.frames_per_clip = frames_per_clip
        # In a list, which nn.Module does not register.
        self._networks = [perceptual_network(network, weights, stand_in)]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._networks[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance, a scalar, of the frames of (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1] to another's."""
        if x.ndim == 5 and self.frames_per_clip is not None and self.frames_per_clip < x.shape[2]:
            chosen = torch.randperm(x.shape[2])[: self.frames_per_clip].to(x.device)
            x, y = x.index_select(2, chosen), y.index_select(2, chosen)
        return self.distances(frames(x), frames(y)).mean()

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) distances of (B, 3, H, W) in [-1, 1] to another."""
        return self._networks[0](x, y)


def frames(x: Tensor) -> Tensor:
    """(B, 3, T, H, W) as images (B T, 3, H, W); images as they are."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


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
