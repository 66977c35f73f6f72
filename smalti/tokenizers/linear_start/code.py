"""How a bottleneck represents principal components: what its encoder must compute.

Shapes: N positions; K coefficients; U hidden units; C channels of the bottleneck's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StartCode:
    """A mapping from coefficients of variance 1 to the input of a bottleneck.

    The last layers of an encoder compute it: affine functions of the coefficients, SiLU, and a linear map.

    Attributes:
        hidden: (U, K + 1) coefficients and offsets of affine functions, most important first. SiLU is applied to their
            values.
        target: maps coefficients (..., K) to the input of the bottleneck (..., C).
        count: number of coefficients K that the code represents.
    """

    hidden: Tensor
    target: Callable[[Tensor], Tensor]
    count: int


def linear_units(count: int, total: int, channels: Tensor | None = None) -> Tensor:
    """Return hidden units whose SiLU preserves values: +x and -x, because silu(x) - silu(-x) = x.

    Args:
        count: number of values to preserve.
        total: number of channels of x.
        channels: (count,) the channels of the values; None: the first ones.

    Returns:
        (2 count, total + 1).
    """
    rows = torch.zeros(count, total + 1)
    rows[torch.arange(count), torch.arange(count) if channels is None else channels.cpu()] = 1.0
    return torch.stack([rows, -rows], dim=1).flatten(0, 1)
