"""Components beside large constants, for networks whose norms divide each position by the magnitude of its channels.

A norm over channels removes the magnitude of a position, and with it brightness and contrast. If the constants are large,
the magnitude is nearly the same at all positions, and the norm is nearly linear.

Shapes: B batch; K components; C channels; the other axes are positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.distributed import sum_over_ranks

SIGNAL = 0.15
"""Root mean square of the components relative to that of the constants. Norms are more linear if it is small, and nonlinear
layers learn faster if it is large."""


@dataclass(frozen=True)
class OffsetLayout:
    """How the channels of a layer combine components with constants. The constants have a root mean square of 1.

    Attributes:
        offset: (C,) constant of each channel.
        matrix: (C, K) share of each component in each channel, with orthonormal columns, which are orthogonal to what the
            norm removes.
    """

    offset: Tensor
    matrix: Tensor

    @property
    def count(self) -> int:
        """Number of components K."""
        return self.matrix.shape[1]

    def combine(self, components: list[Tensor], signal: float = SIGNAL) -> list[Tensor]:
        """Return the channels (B, C, ...) of each batch of components (B, K or more, ...).

        Args:
            components: with a mean of about zero.
            signal: root mean square of the components in the result.
        """
        components = [batch[:, : self.count] for batch in components]
        gain = signal / max(1e-12, root_mean_square(components) * math.sqrt(self.count / len(self.offset)))
        return [
            torch.einsum("ck, bk... -> bc...", self.matrix.to(batch) * gain, batch)
            + self.offset.to(batch).view(1, -1, *[1] * (batch.ndim - 2))
            for batch in components
        ]


def root_mean_square(batches: list[Tensor]) -> float:
    """Return the root mean square of all values of all processes."""
    energy = sum(
        (batch.double().square().sum() for batch in batches),
        torch.zeros((), dtype=torch.float64, device=batches[0].device),
    )
    number = sum(batch.numel() for batch in batches)
    total = sum_over_ranks(torch.stack([energy, energy.new_tensor(number)]))
    return float((total[0] / total[1].clamp_min(1)).sqrt())


def layer_norm_layout(width: int, count: int) -> OffsetLayout:
    """Return a layout for a layer norm over channels, which also removes their mean: at most `width` - 2 components.

    Args:
        width: number of channels C, at least 3.
        count: number of components that there are.
    """
    waves = _waves(width)
    return OffsetLayout(waves[:, 1] * width**0.5, waves[:, 2 : 2 + count])


def pixel_norm_layout(width: int, count: int) -> OffsetLayout:
    """Return a layout for pixel norm and SiLU: at most `width` - 1 components.

    All constants are 1, where SiLU is nearly linear. If there is room, each channel has a partner with the opposite sign,
    because the difference of the two is more linear.

    Args:
        width: number of channels C.
        count: number of components that there are.
    """
    half = width // 2
    if count > half:
        return OffsetLayout(torch.ones(width), _waves(width)[:, 1 : 1 + count])
    waves = _waves(half)[:, :count] / 2**0.5
    rest = waves.new_zeros(width - 2 * half, count)
    return OffsetLayout(torch.ones(width), torch.cat([waves, -waves, rest]))


def _waves(size: int) -> Tensor:
    """Return an orthonormal basis (size, size) of cosines and sines: a constant, the highest frequency, all others.

    For an even size, the highest frequency alternates between two values.
    """
    angles = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
    columns = [torch.ones_like(angles)]
    for frequency in range(size // 2, 0, -1):
        columns.append((frequency * angles).cos())
        if 2 * frequency != size:
            columns.append((frequency * angles).sin())
    basis = torch.stack(columns, dim=1)
    return (basis / basis.norm(dim=0)).float()
