"""What an encoder and a decoder promise. A family of architectures is a file of its own that keeps these promises.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; C channels of a position.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from smalti.tokenizers.parts import Part


class Encoder(Part):
    """Pixels to latent grids.

    Attributes:
        stride: pixels a latent position spans along (T, H, W).
        out_dim: channels C of a position.
    """

    stride: tuple[int, int, int]
    out_dim: int

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, T, H, W) in [-1, 1], of a size that `padded` returns, to one (B, C, t, h, w) tensor a grid."""
        raise NotImplementedError

    def padded(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """The smallest size (T, H, W) this encoder takes that holds `size`: the next multiples of the stride."""
        t, h, w = (-(-n // s) * s for n, s in zip(size, self.stride, strict=True))
        return t, h, w


class Decoder(Part):
    """Latent grids to pixels.

    Attributes:
        in_dim: channels C of a position.
        generative: it draws noise, so that a seed decides its pixels.
    """

    in_dim: int
    generative: ClassVar[bool] = False

    @property
    def final(self) -> nn.Module:
        """The last layer, by whose gradients a trainer may balance losses (VQGAN, arXiv 2012.09841, eq. 7)."""
        raise NotImplementedError

    def forward(self, maps: tuple[Tensor, ...], generator: torch.Generator | None = None) -> Tensor:
        """One (B, C, t, h, w) tensor a grid to (B, 3, T, H, W), about [-1, 1], not clamped.

        Args:
            maps: the latent grids.
            generator: where a generative decoder's noise comes from; the global generator if None.
        """
        raise NotImplementedError

    def adopt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of another decoder, adapted to this one where the function stays the same; here, as they are.

        Args:
            weights: the other decoder's state dict.
        """
        return weights
