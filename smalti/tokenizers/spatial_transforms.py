"""Scaling and rotation of latents and of the pixels that they represent.

Latents are equivariant to a transform if the encoder maps transformed pixels to transformed latents (EQ-VAE, arXiv
2502.09509).

Shapes: B batch; C channels; T frames, H, W pixels; t, h, w latent positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.types import Code, Latents, pack


@dataclass(frozen=True)
class SpatialTransform:
    """Scales height and width, then rotates by quarter turns. Frames are transformed alike, time is not changed.

    Args:
        scale: factor of height and width. Latent grids are rounded to whole positions.
        quarter_turns: number of rotations by 90 degrees, counterclockwise.
    """

    scale: float = 1.0
    quarter_turns: int = 0

    def transform_latents(self, latents: Latents, stride: tuple[int, int, int]) -> Latents:
        """Return latents that decode to as many pixels as `transform_pixels` returns. They have no ids and no losses.

        Codewords are interpolated too, and are then no codewords.

        Args:
            latents: latents of any tokenizer. A grid may be a multiple of the coarsest one, such as that of a first frame.
            stride: pixels per position of the coarsest grid, see `Encoder.stride`.

        Raises:
            SmaltiError: a grid is not a multiple of the coarsest one.
        """
        coarsest = coarsest_size(latents)
        height, width = self._scaled(coarsest)
        transformed = []
        for grid in latents.to_grids():
            rows, columns = grid.shape[3] // coarsest[0], grid.shape[4] // coarsest[1]
            transformed.append(self._transform(grid, (height * rows, width * columns)))
        z, grids = pack(tuple(transformed))
        code = Code(z, branch=latents.code.branch)
        h, w = (width, height) if self.quarter_turns % 2 else (height, width)
        return Latents(code=code, grids=grids, size=(h * stride[1], w * stride[2]), frames=latents.frames)

    def transform_pixels(self, pixels: Tensor, latents: Latents, stride: tuple[int, int, int]) -> Tensor:
        """Return the pixels to which the transformed latents should decode.

        Args:
            pixels: (B, 3, H, W) or (B, 3, T, H, W). They are padded to the stride like the input of the encoder.
            latents: the latents of the pixels, which define the rounded size.
            stride: pixels per latent position.
        """
        h, w = coarsest_size(latents)
        video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
        bottom, right = h * stride[1] - video.shape[3], w * stride[2] - video.shape[4]
        if bottom or right:
            video = F.pad(video, (0, right, 0, bottom, 0, 0), mode="replicate")
        height, width = self._scaled((h, w))
        video = self._transform(video, (height * stride[1], width * stride[2]))
        return video.squeeze(2) if pixels.ndim == 4 else video

    def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        return max(1, round(size[0] * self.scale)), max(1, round(size[1] * self.scale))

    def _transform(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize (B, C, t, h, w) to a height and width, bilinearly and without antialiasing as EQ-VAE does, and rotate."""
        if size != tuple(x.shape[3:]):
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
            x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        return torch.rot90(x, self.quarter_turns, (3, 4)) if self.quarter_turns % 4 else x


def coarsest_size(latents: Latents) -> tuple[int, int]:
    """Return (h, w) of the coarsest grid, whose positions have the stride of the encoder.

    Raises:
        SmaltiError: another grid is not a multiple of it.
    """
    _, h, w = min(latents.grids, key=lambda grid: grid[1] * grid[2])
    if any(grid[1] % h or grid[2] % w for grid in latents.grids):
        raise SmaltiError(
            f"Latents with the grids {latents.grids} cannot be scaled and rotated: each must be a multiple of the coarsest."
        )
    return h, w
