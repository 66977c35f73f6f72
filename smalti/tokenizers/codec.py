"""What an encoder and a decoder promise. A family of architectures is a file of its own that keeps these promises.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; C channels of a position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.tokenizers.parts import Part


class State:
    """What the chunks of a clip that have passed leave for the next one: one clip, one direction, one state.

    A long clip goes through an encoder or a decoder chunk by chunk, with the same state each time. A whole clip is a
    stream of one chunk, the last. Each layer that looks beyond its chunk keeps here what it will need, under itself; so
    nothing is hidden in a module, and two clips can stream through one network.

    Args:
        last: no chunk follows the next one.

    Attributes:
        last: set it before the last chunk; then nothing is kept, and what was held back comes out.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.last = last
        self._kept: dict[object, Tensor] = {}
        self._children: dict[object, State] = {}

    def begins(self, layer: object) -> bool:
        """Whether the layer meets the clip for the first time; asked once a chunk."""
        first = (layer, "begins") not in self._kept
        self.keep((layer, "begins"), torch.empty(0))
        return first

    def kept(self, layer: object) -> Tensor | None:
        """What the layer kept of the chunks before; None: this chunk is its first."""
        return self._kept.get(layer)

    def keep(self, layer: object, x: Tensor) -> None:
        """Keep x for the layer's next chunk; a copy, so that a small part does not hold a whole chunk in memory."""
        if not self.last:
            self._kept[layer] = x.clone()

    def child(self, name: object) -> State:
        """The state of a part of the clip that streams by itself, such as a tile of its frames."""
        child = self._children.setdefault(name, State())
        child.last = self.last
        return child


class Encoder(Part):
    """Pixels to latent grids.

    Every encoder streams: it is causal, or it codes each frame alone.

    Attributes:
        stride: pixels a latent position spans along (T, H, W).
        out_dim: channels C of a position.
    """

    stride: tuple[int, int, int]
    out_dim: int

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """Pixels to one (B, C, t, h, w) tensor a grid.

        Args:
            x: (B, 3, T, H, W) in [-1, 1], of a size that `padded` returns; in a stream, the next frames of the clip:
                first as many as `padded` returns, then multiples of the stride.
            state: of the stream; None: the clip is whole.
        """
        raise NotImplementedError

    def padded(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """The smallest size (T, H, W) it takes that holds `size`: 1 + k times the stride frames, its multiples in space."""
        t, h, w = (-(-n // s) * s for n, s in zip((size[0] - 1, *size[1:]), self.stride, strict=True))
        return 1 + t, h, w


class Decoder(Part):
    """Latent grids to pixels.

    Attributes:
        in_dim: channels C of a position.
        generative: it draws noise, so that a seed decides its pixels.
    """

    in_dim: int
    generative: bool = False

    @property
    def final(self) -> nn.Module:
        """The last layer, by whose gradients a trainer may balance losses (VQGAN, arXiv 2012.09841, eq. 7)."""
        raise NotImplementedError

    def forward(
        self, maps: tuple[Tensor, ...], generator: torch.Generator | None = None, state: State | None = None
    ) -> Tensor:
        """One (B, C, t, h, w) tensor a grid to (B, 3, T, H, W), about [-1, 1], not clamped.

        Args:
            maps: the latent grids; in a stream, those that the encoder gave for one chunk after the other.
            generator: where a generative decoder's noise comes from; the global generator if None.
            state: of the stream; None: the clip is whole. A decoder that looks ahead holds frames back until the last
                chunk.
        """
        raise NotImplementedError

    def adopt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of another decoder, adapted to this one where the function stays the same; here, as they are.

        Args:
            weights: the other decoder's state dict.
        """
        return weights
