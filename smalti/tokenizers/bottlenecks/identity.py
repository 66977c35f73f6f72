"""The bottleneck of plain autoencoders: none."""

from __future__ import annotations

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.types import Code


class Identity(Bottleneck):
    """Passes the latents on unchanged: no distribution, no quantization, no losses (DC-AE, arXiv 2410.10733; Cosmos).

    Args:
        dim: channels of the latent.
        statistics: whether the bottleneck has `LatentStatistics`, as in `KL`.

    Attributes:
        statistics: mean and standard deviation of each channel; None without the argument.

    Raises:
        SmaltiError: `dim` is below 1.
    """

    def __init__(self, dim: int, statistics: bool = False) -> None:
        super().__init__()
        if dim < 1:
            raise SmaltiError(
                f"Identity needs at least one channel, but dim is {dim}: use the number of latent channels."
            )
        self.in_dim = self.out_dim = dim
        self.statistics = LatentStatistics(dim) if statistics else None

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return one component per channel, with mean 0 and variance 1."""
        count = min(coefficients.shape[1], self.in_dim)

        def target(c: Tensor) -> Tensor:
            h = c.new_zeros(*c.shape[:-1], self.in_dim)
            h[..., :count] = c[..., :count]
            return h

        return StartCode(linear_units(count, coefficients.shape[1]), target, count)

    def quantize(self, h: Tensor) -> Code:
        """Return (B, N, dim) unchanged, without ids."""
        return Code(h)
