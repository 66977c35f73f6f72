"""A loss that maximizes the mean PSNR. Shapes: B batch, C channels, T frames, H, W pixels."""

from __future__ import annotations

import math

from torch import Tensor

from smalti.trainers.losses.base import ReconstructionLoss


class PSNRLoss(ReconstructionLoss):
    """The negative PSNR of each sample, in units of 10 dB (HINet, arXiv 2105.06086, section 3.3).

        loss = mean over samples of log10(mean squared error + floor) - log10(4)

    The mean squared error adds up samples of all kinds, so that textures decide, and smooth samples stay at the quality at
    which their error is small next to that of textures. Evaluations report the mean of the PSNR, which counts each dB of
    each sample the same, as this loss does. Its gradients are large: use it with an optimizer that normalizes them.

    Args:
        limit: PSNR in dB above which a sample hardly counts.
    """

    all_channels = True

    def __init__(self, limit: float = 50.0) -> None:
        super().__init__()
        self.floor = 4 * 10 ** (-limit / 10)

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the scalar loss, computed in float32 under any autocast.

        Args:
            reconstruction: (B, C, H, W) or (B, C, T, H, W) in [-1, 1].
            original: pixels of the same shape.
        """
        error = (reconstruction.float() - original.float()).square().flatten(1).mean(1)
        return (error + self.floor).log10().mean() - math.log10(4)
