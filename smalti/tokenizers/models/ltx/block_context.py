"""Inputs that all blocks of a network share for one chunk of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from smalti.tokenizers.base import StreamState


@dataclass(frozen=True, eq=False)
class BlockContext:
    """Inputs that all blocks receive in addition to the features.

    Attributes:
        state: state of the stream.
        timestep: (B, 256) sinusoidal embedding of the timesteps; None if the network is not conditioned on a timestep.
        noise: (H, W) noise of each `NoiseInjection` layer, shared by all samples and frames.
    """

    state: StreamState
    timestep: Tensor | None = None
    noise: Mapping[nn.Module, Tensor] = field(default_factory=dict)
