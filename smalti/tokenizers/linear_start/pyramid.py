"""What the layers of a network should carry at each resolution, so that the whole network is a linear codec.

Shapes: B batch; T frames, H, W pixels; t, h, w positions; K components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smalti.distributed import all_gather_rows
from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.linear_start.principal_components import PrincipalComponents, fit_principal_components

_SMALLEST_SCALE = 0.05
"""Scale of the weakest components relative to the strongest. Their own would vanish under rounding and ridge."""

_KEPT = 256
"""Minimum number of components that are kept, so that layers of different widths at one stride need one decomposition."""


class Pyramid:
    """Principal components of patches of all sizes between a pixel and a latent position.

    A layer at stride s carries the first components of patches of s pixels: T_s in the documentation of the start.

    Args:
        batches: pixels (B, 3, T, H, W) of this process.
    """

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches
        self._components: dict[Stride, PrincipalComponents] = {}

    def components(self, stride: Stride, count: int) -> PrincipalComponents:
        """Return at least the first `count` principal components of patches, or all if there are fewer."""
        known = self._components.get(stride)
        if known is None or len(known.directions) < min(count, 3 * math.prod(stride)):
            self._components[stride] = fit_principal_components(self.batches, stride, max(count, _KEPT))
        return self._components[stride]

    def coefficients(self, stride: Stride, count: int) -> list[Tensor]:
        """Return the first `count` coefficients of each batch with variance 1: (B, K, t, h, w)."""
        components = self.components(stride, count)
        std = components.variances[:count].sqrt().clamp_min(1e-6)
        return [(components.project(batch)[..., :count] / std).movedim(-1, 1) for batch in self.batches]

    def targets(self, stride: Stride, count: int) -> list[Tensor]:
        """Return the first `count` coefficients T_s of each batch, (B, K, t, h, w), with decreasing variance from 1 on."""
        variances = self.components(stride, count).variances[:count]
        scales = component_scales(variances, variances[0])
        return [c * scales[:, None, None, None] for c in self.coefficients(stride, count)]


def component_scales(variances: Tensor, largest: Tensor) -> Tensor:
    """Return the scales of components (K,) in a layer, by their variances relative to the largest one."""
    return (variances / largest).sqrt().sqrt().clamp_min(_SMALLEST_SCALE)


def gather_positions(coefficients: Sequence[Tensor], count: int) -> Tensor:
    """Return coefficients (B, K, t, h, w) of random positions of all processes, (N, K), the same on every process.

    Args:
        coefficients: the batches of this process.
        count: number of positions per process. A process with fewer positions repeats them.
    """
    rows = torch.cat([c.movedim(1, -1).flatten(0, -2) for c in coefficients])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    order = order.repeat(-(-count // len(order)))[:count]
    return all_gather_rows(rows[order.to(rows.device)])
