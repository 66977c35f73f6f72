"""The perceptual loss.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.selection import PerceptualNetworkName, perceptual_network
from smalti.pixels import frames_as_images
from smalti.trainers.keep_dtype import keep_dtype
from smalti.trainers.losses.base import ReconstructionLoss


class PerceptualLoss(ReconstructionLoss):
    """Mean perceptual distance of a batch, computed by a fixed network. Clips are compared frame by frame.

    The network moves to the device of this module but is not registered in it. It is not part of checkpoints, averaged
    weights or DDP. It stays in float32 if the module is converted to another type, such as by the precision bf16-true.

    Args:
        network: "lpips_vgg", "lpips_alex" or "efflite0", see `smalti.eval.feature_networks.perceptual`.
        weights: file or folder with the weights of the backbone; None: see `smalti.eval.pretrained_weights.resolve`.
        allow_proxy: if the weights are not available, use EfficientNet-Lite0 as a proxy and log a warning. False: raise
            an error instead.
        frames_per_clip: number of frames per clip to compare in training, drawn at random in each step. Neighboring frames
            look alike, and all frames of a long clip are expensive. None: all frames. Evaluation mode compares all frames.

    Raises:
        SmaltiError: the weights are not available and no proxy is allowed, the network is unknown, or `frames_per_clip` is
            less than 1.
    """

    def __init__(
        self,
        network: PerceptualNetworkName = "lpips_vgg",
        weights: Path | None = None,
        *,
        allow_proxy: bool = True,
        frames_per_clip: int | None = None,
    ) -> None:
        super().__init__()
        if frames_per_clip is not None and frames_per_clip < 1:
            raise SmaltiError(
                f"frames_per_clip is {frames_per_clip}: give the perceptual loss at least 1 frame, or null for all frames."
            )
        self.frames_per_clip = frames_per_clip
        # A list, because nn.Module does not register the modules in lists.
        self._networks = [perceptual_network(network, weights, allow_proxy)]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._networks[0]._apply(keep_dtype(fn), recurse)
        return super()._apply(fn, recurse)

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the mean distance, a scalar.

        Args:
            reconstruction: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            original: pixels of the same shape.
        """
        count = self.frames_per_clip
        if self.training and count is not None and original.ndim == 5 and count < original.shape[2]:
            chosen = torch.randperm(original.shape[2])[:count].to(original.device)
            reconstruction, original = reconstruction.index_select(2, chosen), original.index_select(2, chosen)
        return self._networks[0](frames_as_images(reconstruction), frames_as_images(original)).mean()
