"""How far a reconstruction is from its original: terms by name, unweighted.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.selection import perceptual_network
from smalti.pixels import frames_as_images


class PerceptualLoss(nn.Module):
    """Mean perceptual distance of a batch, by a fixed network that is no part of what is trained.

    The network follows this module from device to device, but is not among its parameters: checkpoints, moving averages
    and data parallelism never see it.

    Args:
        network: "lpips_vgg", "lpips_alex" or "efflite0", see `smalti.eval.feature_networks.perceptual`.
        weights: file or folder of the backbone's weights; None: see `smalti.eval.pretrained_weights.resolve`.
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
        return self.distances(frames_as_images(x), frames_as_images(y)).mean()

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) distances of (B, 3, H, W) in [-1, 1] to another."""
        return self._networks[0](x, y)
