"""Components beside constants, so that a group norm is nearly linear.

A group norm removes the mean and the magnitude of a group of channels, and with them brightness and contrast. Here, two
channels of each group are large constants with opposite signs, and all others are pairs of a component and its negative: the
mean is zero, and the magnitude is nearly that of the constants in every image. The scale of the norm can then undo it, and
SiLU after the norm is linear, too: silu(x) - silu(-x) = x. The constants have channels of their own, because the sum of a
constant and a component would lose the component's precision in bfloat16.

Shapes: B images; C channels; G groups; K components; H, W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.distributed import sum_over_ranks
from smalti.tokenizers.models.wetok.norms import EPS, AdaptiveGroupNorm

_SIGNAL = 0.05
"""Root mean square of the components of the strongest group relative to that of its constants. An image with ten times the
mean energy is scaled by 1% too little."""


@dataclass(frozen=True)
class GroupNormLayout:
    """How the channels before a group norm combine components with constants.

    Attributes:
        matrix: (C, K) share of each component in each channel.
        constant: (C,) 1 and -1 in the two constant channels of each group, and 0 elsewhere.
        groups: number of groups G.
    """

    matrix: Tensor
    constant: Tensor
    groups: int

    @property
    def count(self) -> int:
        """Number of components K."""
        return self.matrix.shape[1]

    def combine(self, components: Sequence[Tensor]) -> NormInput:
        """Return what a layer before the norm should compute.

        Args:
            components: batches (B, K or more, H, W) of this process, with a mean of about zero.
        """
        signals = [torch.einsum("ck, bkhw -> bchw", self.matrix.to(b), b[:, : self.count]) for b in components]
        energy = torch.stack([b.double().square().sum((0, 2, 3)) for b in signals]).sum(0)
        number = energy.new_tensor([float(sum(b.shape[0] * b.shape[2] * b.shape[3] for b in signals))])
        total = sum_over_ranks(torch.cat([energy, number]))
        return NormInput(self, signals, total[:-1] / total[-1].clamp_min(1))


def group_norm_layout(width: int, groups: int | None, count: int) -> GroupNormLayout | None:
    """Return how components are arranged, as many of `count` as there is room for: (C / G - 2) / 2 per group.

    Args:
        width: number of channels C.
        groups: number of groups G; None: there is no norm.
        count: number of components that there are, the strongest first.

    Returns:
        The layout; None if there is no norm, or no room for the colors of a pixel.
    """
    if groups is None:
        return None
    size = width // groups
    count = min(count, groups * ((size - 2) // 2))
    if count < 3:
        return None
    constant, matrix = torch.zeros(groups, size), torch.zeros(groups, size, count)
    constant[:, 0], constant[:, 1] = 1.0, -1.0
    for k in range(count):  # the strongest components are in different groups
        group, place = k % groups, 2 + 2 * (k // groups)
        matrix[group, place, k], matrix[group, place + 1, k] = 1.0, -1.0
    return GroupNormLayout(matrix.flatten(0, 1), constant.flatten(), groups)


class NormInput:
    """The input of a group norm: components and constants.

    Args:
        layout: where they are.
        signals: batches (B, C, H, W) without the constants.
        energy: (C,) mean square of the signals over all processes.
    """

    def __init__(self, layout: GroupNormLayout, signals: Sequence[Tensor], energy: Tensor) -> None:
        per_group = energy.unflatten(0, (layout.groups, -1)).sum(1)
        self._layout = layout
        self.constant = float((per_group.max() / 2).sqrt().clamp_min(1e-6)) / _SIGNAL
        variance = (per_group + 2 * self.constant**2) / (len(energy) // layout.groups)
        self._std = (variance + EPS).sqrt().repeat_interleave(len(energy) // layout.groups)
        self.signals = signals

    @property
    def affine(self) -> Tensor:
        """(C, K + 1) the channels as affine functions of the components."""
        layout = self._layout
        return torch.cat([layout.matrix, self.constant * layout.constant[:, None]], dim=1)

    @property
    def targets(self) -> list[Tensor]:
        """The channels of each batch, (B, C, H, W)."""
        offset = self.constant * self._layout.constant
        return [signal + offset.to(signal)[:, None, None] for signal in self.signals]

    def channels(self, *, signed: bool = False) -> Tensor:
        """Return the indices of the channels from which the next convolution can read everything.

        Args:
            signed: whether to read the negatives, too, as after SiLU. Otherwise, a constant is read.
        """
        layout = self._layout
        if signed:
            return layout.matrix.any(1).nonzero()[:, 0]
        return torch.cat([layout.constant.argmax()[None], layout.matrix.argmax(0)])

    def undo(self, norm: nn.Module, constant: float = 0.0) -> None:
        """Set scale and shift of a norm so that the components pass it unchanged.

        Args:
            norm: a `GroupNorm` or an `AdaptiveGroupNorm`, changed in place.
            constant: magnitude of the constants behind the norm.
        """
        scale = torch.where(self._layout.constant.to(self._std) == 0, self._std, self._std / self.constant * constant)
        if isinstance(norm, AdaptiveGroupNorm):
            for parameter in (norm.gamma.weight, norm.beta.weight, norm.beta.bias):
                parameter.zero_()
            norm.gamma.bias.copy_(scale)
        else:
            assert isinstance(norm, nn.GroupNorm)
            norm.weight.copy_(scale)
            norm.bias.zero_()

    def read(self, x: Tensor) -> Tensor:
        """Return the components (B, K, H, W) in the output (B, C, H, W) of an undone norm."""
        return x[:, self._layout.matrix.argmax(0).to(x.device)]
