"""A continuous and a discrete bottleneck for one encoder and decoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from smalti.distributed import broadcast_from_rank_0
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.linear_start.code import StartCode
from smalti.types import Code


class Joint(Quantizer):
    """A continuous and a discrete branch that share one encoder and decoder (OneVAE, arXiv 2508.09857).

    In training mode, each call uses one branch, drawn at random with a fixed probability, the same on every rank. A step
    costs as much as for an ordinary tokenizer, the losses of the branches need no weights relative to each other, and all
    DDP ranks use the same parameters. The paper gives no schedule; this one is ours.

    In evaluation mode, the discrete branch is used. `Tokenizer.as_continuous` and `Tokenizer.as_discrete` return each
    branch as an ordinary tokenizer.

    Args:
        continuous: the branch without tokens, such as `KL`.
        discrete: the branch with tokens, with the same input and output channels.
        discrete_probability: probability of the discrete branch, in (0, 1).

    Raises:
        SmaltiError: the channels of the branches differ, or the probability is not in (0, 1).
    """

    def __init__(self, continuous: Bottleneck, discrete: Quantizer, discrete_probability: float = 0.5) -> None:
        super().__init__()
        for name in ("in_dim", "out_dim"):
            if getattr(continuous, name) != getattr(discrete, name):
                raise SmaltiError(
                    f"The two branches of Joint need the same {name}, but {type(continuous).__name__} has "
                    f"{getattr(continuous, name)} and {type(discrete).__name__} has {getattr(discrete, name)}: make "
                    "the two equal in the recipe."
                )
        if not 0 < discrete_probability < 1:
            raise SmaltiError(
                f"discrete_probability is {discrete_probability}, which would train only one branch: give a number between "
                "0 and 1, or use a single branch as the bottleneck."
            )
        self.continuous = continuous
        self.discrete = discrete
        self.discrete_probability = discrete_probability
        self.in_dim = discrete.in_dim
        self.out_dim = discrete.out_dim
        self.loss_names = tuple(dict.fromkeys((*discrete.loss_names, *continuous.loss_names)))
        self.codebook_size = discrete.codebook_size
        self.tokens_per_position = discrete.tokens_per_position

    @property
    def branches(self) -> dict[str, Bottleneck]:
        """Both branches by name."""
        return {"discrete": self.discrete, "continuous": self.continuous}

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return the code of the continuous branch, which both branches read, and fit both branches."""
        self.discrete.linear_start(coefficients, variances, hidden_units)
        return self.continuous.linear_start(coefficients, variances, hidden_units)

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, in_dim) to the code of one of the branches."""
        discrete = not self.training or self._draw(h.device) < self.discrete_probability
        name = "discrete" if discrete else "continuous"
        return replace(self.branches[name](h), branch=name)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the margin of the discrete branch, (B, N, G)."""
        return self.discrete.decision_margin(h)

    def dequantize(self, ids: Tensor) -> Tensor:
        """Look up ids in the discrete branch."""
        return self.discrete.lookup(ids)

    @staticmethod
    def _draw(device: torch.device) -> float:
        """Draw uniformly from [0, 1), with the same result on every rank."""
        return float(broadcast_from_rank_0(torch.rand((), device=device)))
