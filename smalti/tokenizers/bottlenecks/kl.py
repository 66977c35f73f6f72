"""The continuous bottleneck: a diagonal Gaussian that is regularized toward the standard normal distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.types import Code

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Range to which log-variances are clamped. Variances outside of it act like 0 or infinity, and far outside of it, exp
overflows or underflows in float32."""

_START_STD = 0.05
"""Standard deviation of the noise when a training starts as a linear codec, relative to that of the coefficients."""


class KL(Bottleneck):
    """Diagonal Gaussian (VAE, arXiv 1312.6114): a sample in training mode, the mean in evaluation mode.

    Losses, in training mode:
        kl: KL(N(mean, variance) || N(0, 1)) in nats (appendix B), summed over the channels of a position and averaged over
            batch and positions. It does not depend on the resolution. Latent diffusion's code (arXiv 2112.10752) sums this
            loss over the n positions of an image, and the reconstruction losses over its 3 H W values. Losses here are
            means. Its weight w corresponds to w n / (3 H W) here, which is w / (3 s^2) for an encoder of spatial stride s:
            1e-6 with s = 8 corresponds to 5.2e-9. For clips, divide by the temporal stride too. The recipes choose larger
            weights: a channel that is used has about 3 nats (`benchmarks/RESULTS.md`), so that w times 3 dim is about 1% of
            the pixel losses.

    Args:
        dim: channels of the latent. The input has the means first, then the log-variances.
        shared_log_variance: whether all channels of a position share one log-variance, the last of dim + 1 input channels
            (LTX-Video, arXiv 2501.00103), instead of one log-variance per channel (2 dim input channels).
        initial_std: standard deviation of the noise for a log-variance of 0, the average output of a randomly initialized
            encoder. Published models use 1: the noise is as large as the signal, and training from scratch is slow at
            first.
        statistics: whether the bottleneck has `LatentStatistics`, which training measures if `statistics.decay` is set and
            the decoder has none. Generative models are trained on latents that are normalized by them.

    Attributes:
        statistics: mean and standard deviation of each channel; None without the argument.

    Raises:
        SmaltiError: `dim` is below 1, or `initial_std` is not positive.
    """

    loss_names = ("kl",)

    def __init__(
        self, dim: int, shared_log_variance: bool = False, initial_std: float = 1.0, statistics: bool = False
    ) -> None:
        super().__init__()
        if initial_std <= 0:
            raise SmaltiError(f"initial_std is {initial_std}: use a positive standard deviation.")
        if dim < 1:
            raise SmaltiError(f"KL needs at least one channel, but dim is {dim}: use the number of latent channels.")
        self.dim = dim
        self.shared_log_variance = shared_log_variance
        self.initial_std = initial_std
        self.in_dim = dim + 1 if shared_log_variance else 2 * dim
        self.out_dim = dim
        self.statistics = LatentStatistics(dim) if statistics else None

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return one component per channel, with mean 0 and variance 1, as the prior has, and little noise."""
        count = min(coefficients.shape[1], self.dim)
        log_variance = 2 * min(0.0, math.log(_START_STD / self.initial_std))

        def target(c: Tensor) -> Tensor:
            h = c.new_zeros(*c.shape[:-1], self.in_dim)
            h[..., :count] = c[..., :count]
            h[..., self.dim :] = log_variance
            return h

        return StartCode(linear_units(count, coefficients.shape[1]), target, count)

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, in_dim) to z (B, N, dim), without ids."""
        mean, log_variance = h.split([self.dim, self.in_dim - self.dim], dim=-1)
        log_variance = log_variance + 2 * math.log(self.initial_std)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE).expand_as(mean)
        if not self.training:
            return Code(mean, log_variance=log_variance)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1) / 2
        return Code(z, losses={"kl": divergence.mean()}, log_variance=log_variance)
