"""What a bottleneck promises: it sees positions, not grids, and computes in float32 whatever the autocast.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.parts import Part
from smalti.types import Code


class Bottleneck(Part):
    """The part between encoder and decoder that bounds the information.

    Attributes:
        in_dim: channels that it takes from the encoder.
        out_dim: channels that it gives the decoder.
    """

    in_dim: int
    out_dim: int

    def forward(self, h: Tensor) -> Code:
        """Code a batch of positions in float32 (float64 stays), under any autocast and from any dtype.

        Ids computed in half precision are wrong for nearly all positions (FSQ in bfloat16: 98%), so this is the one door.

        Args:
            h: (B, N, in_dim).

        Returns:
            z (B, N, out_dim), ids, and in training mode the losses.

        Raises:
            ValueError: `h` has other channels than `in_dim`.
        """
        if h.ndim != 3 or h.shape[-1] != self.in_dim:
            raise ValueError(f"{type(self).__name__} takes (B, N, {self.in_dim}), not {tuple(h.shape)}.")
        with torch.autocast(h.device.type, enabled=False):
            return self.code(h if h.dtype == torch.float64 else h.float())

    @abstractmethod
    def code(self, h: Tensor) -> Code:
        """What `forward` does, on float32 or float64 `h` (B, N, in_dim), autocast off."""


class Quantizer(Bottleneck):
    """A bottleneck whose code is integers.

    Attributes:
        codebook_size: values that one token can take; an exact int, however large.
        tokens_per_position: G.
    """

    codebook_size: int
    tokens_per_position: int

    @property
    def bits_per_position(self) -> float:
        """Nominal bits of a position: G log2(codebook_size)."""
        return self.tokens_per_position * math.log2(self.codebook_size)

    def lookup(self, ids: Tensor) -> Tensor:
        """(B, N, G) int64 to exactly the z (B, N, out_dim), float32, that `forward` gave for them.

        Raises:
            SmaltiError: the ids have another number of tokens a position, or one is outside [0, codebook_size).
        """
        if ids.ndim != 3 or ids.shape[-1] != self.tokens_per_position:
            raise SmaltiError(
                f"{type(self).__name__} has {self.tokens_per_position} tokens a position and takes ids of shape "
                f"(B, N, {self.tokens_per_position}), not {tuple(ids.shape)}."
            )
        # Traced programs have no values to look at; the exporter states the range instead.
        if not torch.compiler.is_compiling() and ids.numel() and not ids.is_meta:
            low, high = (int(bound) for bound in ids.aminmax())
            if low < 0 or high >= self.codebook_size:
                raise SmaltiError(
                    f"Ids run from {low} to {high}, but {type(self).__name__} knows 0 to {self.codebook_size - 1}: "
                    "they are another tokenizer's, or were cast to a type too small for them."
                )
        with torch.autocast(ids.device.type, enabled=False):
            return self.codes(ids.long())

    @abstractmethod
    def codes(self, ids: Tensor) -> Tensor:
        """What `lookup` does, on ids that were checked."""


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized`, exactly, with the gradient of `x`.

    Written as a sum with a detached difference, so that x + (q - x) cannot miss q by a rounding.
    """
    return quantized.detach() + (x - x.detach())
