"""How a bottleneck represents principal components: what its encoder must compute.

Shapes: N positions; K coefficients; U hidden units; C channels of the bottleneck's input; Z channels of a codeword.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Readout:
    """How the cells of coded components are read from codewords.

    Attributes:
        matrix: (R, Z) linear functions of a codeword. Each gives the number of the cell of one component, on any scale.
        values: the values of each of the R functions, in ascending order, one per cell.
    """

    matrix: Tensor
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class StartCode:
    """A mapping from coefficients of variance 1 to the input of a bottleneck.

    The last layers of an encoder compute it: affine functions of the coefficients, SiLU, and a linear map.

    Attributes:
        hidden: (U, K + 1) coefficients and offsets of affine functions, most important first. SiLU is applied to their
            values.
        target: maps coefficients (..., K) to the input of the bottleneck (..., C).
        count: number of coefficients K that the code represents.
        output: (C, U + 1) weights and biases of the linear map, for encoders that compute the hidden units exactly; None:
            they are fitted to `target`.
        readout: how a decoder finds the cells; None: a linear function of the codewords gives the coefficients.
        lost: share of the variance of the components that the code loses, in [0, 1], to choose between codes.
    """

    hidden: Tensor
    target: Callable[[Tensor], Tensor]
    count: int
    output: Tensor | None = None
    readout: Readout | None = None
    lost: float = 0.0


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
