"""Two bottlenecks in one network, continuous and discrete."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.types import Code


class Joint(Quantizer):
    """Trains one encoder and decoder on both paths, as OneVAE does (arXiv 2508.09857).

    In training mode each call takes one path, drawn with a fixed probability, the same on every rank: so the paths' losses
    need no weights against each other, each batch costs what a plain tokenizer's does, and data parallelism finds the same
    parameters used everywhere. The paper gives no schedule; this one is ours. In evaluation mode the path is the
    discrete one; `Tokenizer.as_continuous` and `Tokenizer.as_discrete` give each path as an ordinary tokenizer.

    Args:
        continuous: the path without tokens, such as `KL`.
        discrete: the path with tokens, of the same channels in and out.
        discrete_share: probability of the discrete path, in (0, 1).

    Raises:
        SmaltiError: channels that differ, or a share that leaves one path out.
    """

    def __init__(self, continuous: Bottleneck, discrete: Quantizer, discrete_share: float = 0.5) -> None:
        super().__init__()
        for name in ("in_dim", "out_dim"):
            if getattr(continuous, name) != getattr(discrete, name):
                raise SmaltiError(
                    f"The two paths of Joint need the same {name}, but {type(continuous).__name__} has "
                    f"{getattr(continuous, name)} and {type(discrete).__name__} {getattr(discrete, name)}."
                )
        if not 0 < discrete_share < 1:
            raise SmaltiError(
                f"discrete_share is {discrete_share}, which trains one path alone: give a number between 0 and 1, or make "
                "that path the bottleneck."
            )
        self.continuous = continuous
        self.discrete = discrete
        self.discrete_share = discrete_share
        self.in_dim = discrete.in_dim
        self.out_dim = discrete.out_dim
        self.codebook_size = discrete.codebook_size
        self.tokens_per_position = discrete.tokens_per_position

    def code(self, h: Tensor) -> Code:
        """(B, N, in_dim) to what one of the paths makes of it."""
        path = self.discrete if not self.training or self._draw(h.device) < self.discrete_share else self.continuous
        return path(h)

    def codes(self, ids: Tensor) -> Tensor:
        """The discrete path's."""
        return self.discrete.lookup(ids)

    @staticmethod
    def _draw(device: torch.device) -> float:
        """Uniform in [0, 1), rank 0's draw on every rank."""
        draw = torch.rand((), device=device)
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(draw, src=0)
        return float(draw)
