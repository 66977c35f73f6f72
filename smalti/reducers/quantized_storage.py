"""Storing continuous latents in few bits: per channel or per token, with more bits for salient tokens.

ZipCache (arXiv 2405.14256) divides the channels of a cache by their magnitudes and quantizes each token; MiKV (arXiv
2402.18096) keeps important entries in more bits. Both are applied to latents here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import check_saliency, count_kept

Axis = Literal["channel", "token", "balanced"]
_BITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class QuantizedLatents:
    """Latents (B, N, C) in `bits` bits per value: value = (level * scale + offset) * balance.

    Attributes:
        levels: (B, ceil(N * C * bits / 8)) uint8, packed, the first value in the lowest bits.
        scale: (B, 1, C) or (B, N, 1) float32 step.
        offset: the same shape, the smallest value.
        balance: (B, 1, C) float32 magnitude of the channels that was divided out; None for 1.
        shape: (N, C).
        bits: 1, 2, 4 or 8.
    """

    levels: Tensor
    scale: Tensor
    offset: Tensor
    balance: Tensor | None
    shape: tuple[int, int]
    bits: int

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        parts = (self.levels, self.scale, self.offset, self.balance)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def dequantize(self) -> Tensor:
        """Return float32 latents (B, N, C)."""
        levels = _unpack(self.levels, self.bits, self.shape[0] * self.shape[1]).unflatten(1, self.shape)
        values = levels.float() * self.scale + self.offset
        return values if self.balance is None else values * self.balance

    def error_bound(self) -> Tensor:
        """Return the largest possible absolute error of each value, broadcast to (B, N, C): half a step, and rounding."""
        extent = self.scale * (2**self.bits - 1) + self.offset.abs()
        bound = self.scale / 2 + 4 * torch.finfo(torch.float32).eps * extent
        bound = bound if self.balance is None else bound * self.balance
        return bound.expand(len(bound), *self.shape)


def quantize_latents(latents: Tensor, bits: int, axis: Axis = "balanced") -> QuantizedLatents:
    """Quantize latents uniformly between the minimum and the maximum of each channel or token.

    Args:
        latents: (B, N, C).
        bits: 1, 2, 4 or 8 bits per value.
        axis: "channel" for a range per channel; "token" for a range per token; "balanced" for a range per token after
            division of the channels by the square root of their largest magnitude (ZipCache).

    Raises:
        SmaltiError: the number of bits or the axis is not supported, or a value is not finite.
    """
    if bits not in _BITS:
        raise SmaltiError(f"Latents cannot be stored in {bits} bits: choose 1, 2, 4 or 8.")
    if axis not in ("channel", "token", "balanced"):
        raise SmaltiError(f"axis is '{axis}': choose channel, token or balanced.")
    x = latents.detach().float()
    if x.numel() and not bool(x.isfinite().all()):
        raise SmaltiError("The latents contain NaN or infinity, which cannot be quantized: check the tokenizer.")
    balance = None
    if axis == "balanced":
        balance = x.abs().amax(1, keepdim=True).sqrt()
        balance = torch.where(balance > 0, balance, 1)
        x = x / balance
    dim = 1 if axis == "channel" else 2
    offset = x.amin(dim, keepdim=True)
    scale = (x.amax(dim, keepdim=True) - offset) / (2**bits - 1)
    levels = ((x - offset) / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(0, 2**bits - 1)
    return QuantizedLatents(
        _pack(levels.flatten(1).to(torch.uint8), bits), scale, offset, balance, (x.shape[1], x.shape[2]), bits
    )


@dataclass(frozen=True)
class MixedLatents:
    """Latents of which the salient tokens are stored in more bits.

    Attributes:
        salient: (B, K) int64 positions in raster order.
        high: the salient tokens.
        low: the other tokens, in raster order.
    """

    salient: Tensor
    high: QuantizedLatents
    low: QuantizedLatents

    @property
    def nbytes(self) -> int:
        """Bytes of both parts and of a bit per token."""
        total = self.high.shape[0] + self.low.shape[0]
        return self.high.nbytes + self.low.nbytes + len(self.salient) * -(-total // 8)

    def dequantize(self) -> Tensor:
        """Return float32 latents (B, N, C)."""
        return self._merge(self.high.dequantize(), self.low.dequantize())

    def error_bound(self) -> Tensor:
        """Return the largest possible absolute error of each value (B, N, C)."""
        return self._merge(self.high.error_bound(), self.low.error_bound())

    def _merge(self, high: Tensor, low: Tensor) -> Tensor:
        order = torch.cat((self.salient, _others(self.salient, high.shape[1] + low.shape[1])), 1)
        return torch.empty_like(torch.cat((high, low), 1)).scatter(
            1, order[..., None].expand(-1, -1, high.shape[2]), torch.cat((high, low), 1)
        )


def quantize_by_saliency(
    latents: Tensor, saliency: Tensor, *, keep: float = 0.25, high: int = 8, low: int = 2, axis: Axis = "balanced"
) -> MixedLatents:
    """Store the most salient tokens in `high` bits and the others in `low` bits.

    Args:
        latents: (B, N, C).
        saliency: (B, N). See `smalti.reducers.saliency`.
        keep: number (an integer) or fraction of salient tokens.
        high: bits per value of salient tokens.
        low: bits per value of the others.
        axis: see `quantize_latents`.
    """
    check_saliency(saliency, latents, "Mixed precision")
    count = count_kept(keep, latents.shape[1])
    salient = saliency.argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values
    others = _others(salient, latents.shape[1])
    parts = (latents.gather(1, index[..., None].expand(-1, -1, latents.shape[2])) for index in (salient, others))
    first, second = parts
    return MixedLatents(salient, quantize_latents(first, high, axis), quantize_latents(second, low, axis))


def _others(selected: Tensor, total: int) -> Tensor:
    """Return the positions (B, total - K) that are not selected (B, K), in raster order."""
    chosen = torch.zeros(len(selected), total, dtype=torch.bool, device=selected.device).scatter(
        1, selected, value=True
    )
    return torch.argsort(chosen.to(torch.uint8), dim=1, stable=True)[:, : total - selected.shape[1]]


def _pack(levels: Tensor, bits: int) -> Tensor:
    """Pack levels (B, L) uint8 into bytes."""
    per_byte = 8 // bits
    padded = torch.nn.functional.pad(levels, (0, -levels.shape[1] % per_byte)).unflatten(1, (-1, per_byte))
    shifts = torch.arange(per_byte, device=levels.device, dtype=torch.uint8) * bits
    return (padded << shifts).sum(2).to(torch.uint8)


def _unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return levels (B, count) uint8."""
    shifts = torch.arange(8 // bits, device=packed.device, dtype=torch.uint8) * bits
    return ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(1)[:, :count]
