"""A quantizer without its rounding: a discrete tokenizer that becomes continuous."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.types import Code


class Unquantized(Bottleneck):
    """Returns the vectors that a quantizer would round, in the space of its codewords.

    The decoder of a discrete tokenizer has seen codewords, which are close to these vectors: it starts almost as good and
    learns to use what rounding removed. The quantizer must have `hardness` (FSQ, GQ, BSQ, and `Projected` around them).

    Args:
        quantizer: the quantizer, whose projections are trained on.
        noise: standard deviation of Gaussian noise that is added in training, in units of the codewords. It limits the
            information as rounding did; 0: none.
        statistics: whether the bottleneck has `LatentStatistics`, as in `KL`.

    Attributes:
        statistics: mean and standard deviation of each channel; None without the argument.

    Raises:
        SmaltiError: `noise` is negative.
    """

    def __init__(self, quantizer: Quantizer, noise: float = 0.0, statistics: bool = False) -> None:
        super().__init__()
        if noise < 0:
            raise SmaltiError(f"Unquantized has the noise {noise}: use 0 or a positive standard deviation.")
        self.quantizer = quantizer
        self.noise = noise
        self.in_dim, self.out_dim = quantizer.in_dim, quantizer.out_dim
        self.statistics = LatentStatistics(self.out_dim) if statistics else None

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, in_dim) to (B, N, out_dim), without ids and losses."""
        inner = [module for module in self.quantizer.modules() if isinstance(module, Quantizer)]
        before = [(module.training, module.hardness) for module in inner]
        try:
            for module in inner:
                module.training, module.hardness = True, 0.0  # `Quantizer.soften` then returns its input
            z = self.quantizer(h).z
        finally:
            for module, (training, hardness) in zip(inner, before, strict=True):
                module.training, module.hardness = training, hardness
        return Code(z + self.noise * torch.randn_like(z) if self.training and self.noise else z)
