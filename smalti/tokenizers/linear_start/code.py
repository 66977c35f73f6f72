"""How a bottleneck represents principal components: what its encoder must compute.

Shapes: N positions; K coefficients; U hidden units; C channels of the bottleneck's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """Two hidden layers through which a decoder computes coefficients from codewords that are not linear in them.

    Attributes:
        first: (V, Z + 1) affine functions of the codewords, before the first SiLU. A linear map of its values gives one
            number per coefficient.
        number: maps codewords (..., Z) to these numbers (..., K).
        second: (W, K + 1) affine functions of the numbers, most important first, before the second SiLU. A linear map of its
            values gives the coefficients.
    """

    first: Tensor
    number: Callable[[Tensor], Tensor]
    second: Tensor


@dataclass(frozen=True)
class StartCode:
    """A mapping from coefficients of variance 1 to the input of a bottleneck.

    The last layers of an encoder compute it: affine functions of the coefficients, SiLU, and a linear map.

    Attributes:
        hidden: (U, K + 1) coefficients and offsets of affine functions, most important first. SiLU is applied to their
            values.
        target: maps coefficients (..., K) to the input of the bottleneck (..., C).
        count: number of coefficients K that the code represents.
        decoding: how a decoder computes the coefficients from codewords; None if they are a linear function of them.
    """

    hidden: Tensor
    target: Callable[[Tensor], Tensor]
    count: int
    decoding: Decoding | None = None


def linear_units(count: int, total: int) -> Tensor:
    """Return hidden units whose SiLU preserves coefficients: +c and -c, because silu(x) - silu(-x) = x.

    Args:
        count: number of coefficients to preserve.
        total: number of coefficients K.

    Returns:
        (2 count, K + 1).
    """
    identity = torch.eye(count, total + 1)
    return torch.stack([identity, -identity], dim=1).flatten(0, 1)
