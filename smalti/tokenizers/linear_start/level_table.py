"""Values of unequal distances for the cells of a component: what no linear function of the number of a cell can give.

A residual block computes the difference between the value of a cell and the linear estimate, as a sum of ramps that begin
between the cells.

Shapes: R coded components; Z channels of a codeword; K components that the layer before the block carries; h, w positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.linear_start.code import Readout
from smalti.tokenizers.linear_start.fitting import CODE_RIDGE, center_weights
from smalti.tokenizers.linear_start.least_squares import RIDGE, NormalEquations

_SHARPNESS = 4.0
"""Scale of the ramps in units of the distance of two knots."""

MAX_KNOTS = 7
"""Maximum number of ramps per component."""


class LevelTable:
    """Channels with the numbers of cells, and the residual block that reads them.

    Args:
        readout: how the numbers are read from codewords.
        width: number of channels of the layer before the block. The numbers take at most half of them.
    """

    def __init__(self, readout: Readout, width: int) -> None:
        self._count = min(len(readout.values), (width // 2 - 1) // 2)
        self._matrix = readout.matrix[: self._count]
        self._values = readout.values[: self._count]

    @property
    def channels(self) -> int:
        """Number of channels: a constant, the numbers, and the numbers with opposite signs."""
        return 1 + 2 * self._count

    @torch.no_grad()
    def fit(self, conv: nn.Conv2d, block: nn.Module, codewords: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
        """Set the first convolution of a decoder, and a residual block without norms after it.

        Together, they are one linear regression on the codewords in the kernel's window and the ramps.

        Args:
            conv: the convolution. Its first K channels get the linear part, the next ones the numbers.
            block: x -> x + conv2(SiLU(conv1(SiLU(x)))).
            codewords: (B, C, h, w) per batch, with the C input channels of the convolution. Only Z of them are read.
            targets: (B, K, h, w) per batch.

        Returns:
            The share of the variance of the targets that is not explained, in [0, 1].
        """
        conv1, conv2 = block.conv1, block.conv2
        assert isinstance(conv1, nn.Conv2d)
        assert isinstance(conv2, nn.Conv2d)
        used, count = self._matrix.shape[1], targets[0].shape[1]
        self._set_numbers(conv, count)
        ramps = self._set_ramps(conv1, count)
        features = used * conv.kernel_size[0] * conv.kernel_size[1]
        assert not isinstance(conv.padding, str)
        padding = (conv.padding[0], conv.padding[1])
        equations = NormalEquations(features + ramps, count, conv.weight.device)
        for batch, target in zip(codewords, targets, strict=True):
            windows = F.unfold(batch[:, :used], conv.kernel_size, padding=padding)
            hidden = F.silu(conv1(F.silu(conv(batch))))[:, :ramps].flatten(2)
            x = torch.cat([windows, hidden], dim=1).movedim(1, -1).flatten(0, 1)
            equations.add(x, target.movedim(1, -1).flatten(0, -2).float())
        ridge = torch.tensor([RIDGE] * features + [CODE_RIDGE] * ramps)
        weights, bias, error = equations.solve(ridge=ridge)
        conv.weight[:count] = 0.0
        conv.weight[:count, :used] = weights[:, :features].unflatten(1, (used, *conv.kernel_size)).to(conv.weight)
        assert conv.bias is not None
        conv.bias[:count] = bias.to(conv.bias)
        conv2.weight.zero_()
        center_weights(conv2)[:count, :ramps] = weights[:, features:].to(conv2.weight)
        return error

    def _set_numbers(self, conv: nn.Conv2d, first: int) -> None:
        """Make the first convolution compute a constant, the numbers and their negatives, from channel `first` on."""
        assert conv.bias is not None
        rows = slice(first, first + self.channels)
        conv.weight[rows] = 0.0
        conv.bias[rows] = 0.0
        conv.bias[first] = 1.0
        signed = torch.cat([self._matrix, -self._matrix]).to(conv.weight)
        center_weights(conv)[first + 1 : first + self.channels, : signed.shape[1]] = signed

    def _set_ramps(self, conv: nn.Conv2d, first: int) -> int:
        """Set rows of the first convolution of the block to the ramps, and return how many there are."""
        conv.weight.zero_()
        weights, row = center_weights(conv), 0
        constant = float(F.silu(torch.ones(())))
        for index, values in enumerate(self._values):
            knots = _knots(values)[: conv.out_channels - row]
            slope = _SHARPNESS / float(knots[1] - knots[0]) if len(knots) > 1 else _SHARPNESS
            for knot in knots.tolist():
                positive = first + 1 + index
                weights[row, positive] = slope  # silu(x) - silu(-x) = x
                weights[row, positive + self._count] = -slope
                weights[row, first] = -slope * knot / constant
                row += 1
        return row


def _knots(values: Tensor) -> Tensor:
    """Return where ramps begin: between all values, or at equal distances if there are too many. None for two values."""
    if len(values) <= 2:
        return values[:0]
    if len(values) - 1 <= MAX_KNOTS:
        return (values[1:] + values[:-1]) / 2
    return torch.linspace(float(values[0]), float(values[-1]), MAX_KNOTS + 2, device=values.device)[1:-1]
