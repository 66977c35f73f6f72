"""Principal components of patches, measured on the batches of all processes.

Shapes: N patches; D values per patch; K components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.distributed import sum_over_ranks
from smalti.errors import SmaltiError
from smalti.tokenizers.linear_start.patches import Stride, from_patches, to_patches

_MAX_VALUES = 1536
"""Maximum values per patch whose covariance is computed directly. Larger patches are reduced in two steps."""


@dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which patches vary most.

    Attributes:
        stride: frames, height and width of a patch.
        mean: (D,) mean patch.
        directions: (K, D) orthonormal rows, by decreasing variance.
        variances: (K,) variance of the patches along each direction, in squared pixel units of [-1, 1].
    """

    stride: Stride
    mean: Tensor
    directions: Tensor
    variances: Tensor

    @property
    def channels(self) -> int:
        """Number of channels of the pixels."""
        return len(self.mean) // math.prod(self.stride)

    def project(self, pixels: Tensor) -> Tensor:
        """Return the coefficients (B, t, h, w, K) of pixels (B, C, T, H, W)."""
        return (to_patches(pixels, self.stride) - self.mean) @ self.directions.T

    def synthesize(self, coefficients: Tensor, frames: int, height: int, width: int) -> Tensor:
        """Return the pixels (B, C, frames, height, width) of coefficients (B, t, h, w, K)."""
        patches = coefficients @ self.directions[: coefficients.shape[-1]] + self.mean
        return from_patches(patches, self.stride, frames, height, width)


def fit_principal_components(batches: Sequence[Tensor], stride: Stride, count: int) -> PrincipalComponents:
    """Measure the principal components of the patches of all batches of all processes.

    Patches with many values are reduced in two steps: the components of smaller patches, then the components of their
    coefficients. What the first step drops is below the variance of the components that remain.

    Args:
        batches: pixels (B, C, T, H, W) of this process; not empty.
        stride: frames, height and width of a patch.
        count: number of components K; at most as many as a patch has values are returned.

    Raises:
        SmaltiError: there are no batches.
    """
    if not batches:
        raise SmaltiError("Principal components need at least one batch of data: check the number of training samples.")
    channels = batches[0].shape[1]
    values = channels * math.prod(stride)
    if values <= _MAX_VALUES:
        mean, directions, variances = _components(lambda x: to_patches(x, stride).flatten(0, -2), batches, count)
        return PrincipalComponents(stride, mean, directions, variances)
    inner_stride = _inner_stride(stride, channels)
    blocks = math.prod(stride) // math.prod(inner_stride)
    inner = fit_principal_components(batches, inner_stride, _MAX_VALUES // blocks)
    mean, directions, variances = _components(lambda x: _stack(inner, x, stride), batches, count)
    expanded = _expand(directions, inner, stride)
    offset = _expand(mean[None], inner, stride)[0] + _tile_mean(inner, stride)
    return PrincipalComponents(stride, offset, expanded, variances)


def _inner_stride(stride: Stride, channels: int) -> Stride:
    """Return the size of the smaller patches: halve the longest side until they are small enough."""
    sides = list(stride)
    while channels * math.prod(sides) > _MAX_VALUES // 2:
        longest = max(range(3), key=lambda axis: sides[axis])
        if sides[longest] % 2:
            raise SmaltiError(f"The stride {stride} is too large for principal components: its sides must be even.")
        sides[longest] //= 2
    return sides[0], sides[1], sides[2]


def _components(
    rows: Callable[[Tensor], Tensor], batches: Sequence[Tensor], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, the directions (K, D) and their variances of the rows (N, D) of all batches."""
    first = rows(batches[0])
    shift = first.double().mean(0) if len(first) else first.new_zeros(first.shape[1]).double()
    shift = sum_over_ranks(shift)  # any shift near the mean that all ranks share keeps the sums precise
    total = torch.zeros(first.shape[1] + 1, first.shape[1] + 1, dtype=torch.float64, device=first.device)
    for batch in batches:
        x = rows(batch).double() - shift
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        total += x.T @ x
    total = sum_over_ranks(total)
    number = total[-1, -1].clamp_min(1)
    mean = total[-1, :-1] / number
    covariance = total[:-1, :-1] / number - mean.outer(mean)
    variances, directions = torch.linalg.eigh(covariance)
    order = variances.argsort(descending=True)[:count]
    directions = directions[:, order].T
    # The sign of an eigenvector is arbitrary. Fix it, so that every machine gets the same codec.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    dtype = first.dtype
    return (mean + shift).to(dtype), directions.to(dtype), variances[order].clamp_min(0).to(dtype)


def _stack(inner: PrincipalComponents, pixels: Tensor, stride: Stride) -> Tensor:
    """Return the coefficients of all small patches of each patch: (N, blocks x inner K)."""
    patches = to_patches(pixels, stride).flatten(0, -2).unflatten(-1, (-1, *stride))
    t, h, w = inner.stride
    blocks = patches.unfold(2, t, t).unfold(3, h, h).unfold(4, w, w).permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)
    return ((blocks - inner.mean) @ inner.directions.T).flatten(1)


def _expand(rows: Tensor, inner: PrincipalComponents, stride: Stride) -> Tensor:
    """Map rows of coefficients (K, blocks x inner K) to rows of pixel values (K, D)."""
    return _assemble(rows.unflatten(1, (-1, len(inner.directions))) @ inner.directions, inner.stride, stride)


def _tile_mean(inner: PrincipalComponents, stride: Stride) -> Tensor:
    """Return the (D,) patch that consists of the mean small patch everywhere."""
    blocks = math.prod(stride) // math.prod(inner.stride)
    return _assemble(inner.mean.expand(1, blocks, -1), inner.stride, stride)[0]


def _assemble(blocks: Tensor, inner: Stride, stride: Stride) -> Tensor:
    """Assemble small patches (K, blocks, inner D) to patches (K, D)."""
    counts = [outer // small for outer, small in zip(stride, inner, strict=True)]
    grid = blocks.unflatten(1, counts).unflatten(-1, (-1, *inner))  # (K, t', h', w', C, t, h, w)
    return grid.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(1)
