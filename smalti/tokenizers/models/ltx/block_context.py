"""A decoder as the last step of denoising: what tells its layers how noisy the latent is, and noise of their own.

LTX-Video (arXiv 2501.00103, section 2.3 and appendix). Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from smalti.tokenizers.base import StreamState


@dataclass(frozen=True, eq=False)
class BlockContext:
    """What all layers of a decoder share while one chunk goes through.

    Attributes:
        state: of the stream.
        time: (B, 256) sinusoids of the times; None: the decoder knows none.
        noise: the (H, W) map of each layer that adds noise, one for all frames and samples of a clip.
    """

    state: StreamState
    time: Tensor | None = None
    noise: Mapping[nn.Module, Tensor] = field(default_factory=dict)
