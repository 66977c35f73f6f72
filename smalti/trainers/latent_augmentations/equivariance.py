"""EQ-VAE: latents that can be scaled and rotated like pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.spatial_transforms import SpatialTransform, coarsest_size
from smalti.trainers.latent_augmentations.base import LatentAugmentation
from smalti.types import Latents


class LatentEquivariance(LatentAugmentation):
    """Scales and rotates latents and target alike (EQ-VAE, arXiv 2502.09509, the implicit regularization).

        L(x, D(E(x)))  becomes  L(t(x), D(t(E(x))))  with a probability, for a random transform t

    t scales height and width by the same factor and then rotates by 90, 180 or 270 degrees. The factor is uniform over the
    whole numbers of rows from `min_scale` of the grid's height to one row less than it: 8/32 to 31/32 for the 32 rows of
    the paper. All samples of a batch have the same transform. Steps without a transform preserve the reconstruction at the
    full resolution. The published code also downsamples some of their inputs, which `data.scale` of a recipe does.

    Codewords are transformed after quantization, with straight-through gradients. The frames of a clip are transformed
    alike.

    Args:
        probability: probability of a transform per micro-batch.
        min_scale: smallest factor of height and width, in (0, 1].
        rotate: whether to rotate.

    Raises:
        SmaltiError: an argument is out of range.
    """

    def __init__(self, probability: float = 0.5, min_scale: float = 0.25, *, rotate: bool = True) -> None:
        super().__init__()
        if not 0 <= probability <= 1 or not 0 < min_scale <= 1:
            raise SmaltiError(
                f"LatentEquivariance has probability {probability} and min_scale {min_scale}: use a probability in [0, 1] "
                "and a scale in (0, 1]."
            )
        self.probability = probability
        self.min_scale = min_scale
        self.rotate = rotate

    def forward(self, latents: Latents, target: Tensor, stride: tuple[int, int, int]) -> tuple[Latents, Tensor]:
        """Return both transformed, or unchanged. See `LatentAugmentation.forward`."""
        if float(torch.rand(())) >= self.probability:
            return latents, target
        rows = coarsest_size(latents)[0]
        fewest = max(1, round(self.min_scale * rows))
        scale = int(torch.randint(fewest, rows, ())) / rows if fewest < rows else 1.0
        transform = SpatialTransform(scale, int(torch.randint(1, 4, ())) if self.rotate else 0)
        return transform.transform_latents(latents, stride), transform.transform_pixels(target, latents, stride)
