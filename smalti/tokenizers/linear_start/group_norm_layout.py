"""Components beside constants, so that a group norm is nearly linear.

A group norm removes the mean and the magnitude of a group of channels, and with them brightness and contrast. Here, two
channels of each group are large constants with opposite signs, and all others are pairs of a component and its negative.
The mean is then zero, and the magnitude is nearly that of the constants in every image, so that the scale of the norm can
undo it. SiLU after the norm is linear, too: silu(x) - silu(-x) = x. The constants have channels of their own, because the
sum of a constant and a component would lose the component's precision in bfloat16.

Shapes: B images or clips; C channels; G groups; K components; the other axes are positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.distributed import sum_over_ranks
from smalti.tokenizers.linear_start.fitting import center_weights

MIN_CHANNELS = 4
"""Channels of a group below which there is no room: two constants and a pair."""

BRANCH_SCALE = 0.1
"""Scale of the second norm of residual branches. With 1, the first steps of training would destroy the start: the last
convolution of a branch starts at zero, and its first steps are as large as its inputs."""

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


class GroupNormInput:
    """What a layer before a group norm carries: components and constants.

    Args:
        layout: where they are.
        components: batches (B, K, ...) of this process, with a mean of about zero.
    """

    def __init__(self, layout: GroupNormLayout, components: Sequence[Tensor]) -> None:
        self._layout = layout
        energy = torch.stack([batch.double().square().transpose(0, 1).flatten(1).sum(1) for batch in components]).sum(0)
        number = energy.new_tensor([float(sum(batch[:, 0].numel() for batch in components))])
        total = sum_over_ranks(torch.cat([energy, number])).cpu()
        size = len(layout.constant) // layout.groups
        per_channel = layout.matrix.double().square() @ (total[:-1] / total[-1].clamp_min(1))
        per_group = per_channel.unflatten(0, (layout.groups, size)).sum(1)
        self.constant = float((per_group.max() / 2).sqrt().clamp_min(1e-6)) / _SIGNAL
        self._std = ((per_group + 2 * self.constant**2) / size).sqrt().repeat_interleave(size)

    @property
    def affine(self) -> Tensor:
        """(C, K + 1) the channels as affine functions of the components."""
        return torch.cat([self._layout.matrix, self.constant * self._layout.constant[:, None]], dim=1)

    def expand(self, conv: nn.Conv2d | nn.Conv3d, one: int | None = None) -> None:
        """Make a convolution that computes the components in its first channels compute all channels.

        Args:
            conv: changed in place. Its output channels may be several blocks of C, each of which is changed.
            one: index of an input channel that is 1 everywhere, for a convolution without bias.
        """
        affine = self.affine.to(conv.weight)
        width, count = len(affine), affine.shape[1] - 1
        weight = conv.weight.unflatten(0, (-1, width))
        weight.copy_(torch.einsum("ck, nk... -> nc...", affine[:, :-1], weight[:, :count].clone()))
        if conv.bias is not None:
            bias = conv.bias.unflatten(0, (-1, width))
            bias.copy_(bias[:, :count].clone() @ affine[:, :-1].T + affine[:, -1])
        elif one is not None:
            assert isinstance(conv, nn.Conv2d)
            center_weights(conv)[:, one] = affine[:, -1]

    def scale(self, constant: float = 0.0) -> Tensor:
        """Return the (C,) scale of a norm with which the components pass it unchanged.

        Args:
            constant: the constants behind the norm.
        """
        return torch.where(self._layout.constant == 0, self._std, self._std / self.constant * constant)

    def undo(self, norm: nn.Module) -> None:
        """Set scale and shift of a `GroupNorm` so that the components pass it unchanged, and the constants become zero."""
        assert isinstance(norm, nn.GroupNorm)
        norm.weight.copy_(self.scale())
        norm.bias.zero_()

    @property
    def positive(self) -> Tensor:
        """(K,) indices of the channels with the components."""
        return self._layout.matrix.argmax(0)

    @property
    def signed(self) -> Tensor:
        """(2 K,) indices of the channels with the components and with their negatives."""
        return torch.cat([self.positive, self._layout.matrix.argmin(0)])

    @property
    def one(self) -> int:
        """Index of a channel with a positive constant."""
        return int(self._layout.constant.argmax())


def before_norm(components: list[Tensor], width: int, groups: int | None) -> tuple[GroupNormInput | None, list[Tensor]]:
    """Return what a layer of a width carries before the next norm of the trunk.

    Args:
        components: (B, K, ...) of each batch.
        width: number of channels.
        groups: groups of the norm; None: there is none.

    Returns:
        How the norm is undone, None if there is no norm or no room to prepare for it; and the components that the layer
        carries. If the norm is undone, `GroupNormInput.expand` adds the other channels to a fitted layer.
    """
    layout = group_norm_layout(width, groups, components[0].shape[1])
    if layout is None:
        return None, components
    components = [batch[:, : layout.matrix.shape[1]] for batch in components]
    return GroupNormInput(layout, components), components
