"""A quantizer with linear projections around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer
from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.tokenizers.linear_start.least_squares import NormalEquations
from smalti.types import Code

_LINEAR = 1e-3
"""Largest unexplained share of the variance at which a code counts as a linear function of the components."""


class Projected(Quantizer):
    """A quantizer between two linear projections, from the channels of the latent to those of the quantizer and back.

    ViT-VQGAN (arXiv 2110.04627) calls this factorized codes; OneVAE (arXiv 2508.09857) uses it with FSQ.

    Args:
        quantizer: quantizes the projected positions.
        dim: channels of the latent that the decoder receives.
        in_dim: channels of the input; None for `dim`. Only the first `dim` channels are used: the encoder of a continuous
            tokenizer returns the means first, then log-variances.

    Raises:
        SmaltiError: `dim` is not in [1, in_dim].
    """

    def __init__(self, quantizer: Quantizer, dim: int, in_dim: int | None = None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.in_dim = dim if in_dim is None else in_dim
        self.out_dim = dim
        self.loss_names = quantizer.loss_names
        if not 1 <= dim <= self.in_dim:
            raise SmaltiError(
                f"Projected uses the first dim of in_dim channels, but dim is {dim} and in_dim {self.in_dim}: choose dim "
                "from 1 to in_dim."
            )
        self.codebook_size = quantizer.codebook_size
        self.tokens_per_position = quantizer.tokens_per_position
        self.down = nn.Linear(dim, quantizer.in_dim)
        self.up = nn.Linear(quantizer.out_dim, dim)

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return one component of variance 1 per channel, and fit the projections to them.

        The first projection maps them to the code of the inner quantizer if that is a linear function of them, and
        otherwise to one component per channel of the quantizer. The second projection restores them by least squares.
        """
        count = min(coefficients.shape[1], self.out_dim)
        c = coefficients[:, :count]  # a code of more components would need some that the projection does not see
        goal = self.quantizer.linear_start(c, variances[:count], hidden_units=0).target(c)
        unexplained = self._fit(self.down, c, goal)
        if unexplained > _LINEAR:
            goal = c.new_zeros(goal.shape)
            goal[:, :count] = c[:, : goal.shape[1]]
            self._fit(self.down, c, goal)
        h = c.new_zeros(len(c), self.out_dim)
        h[:, :count] = c
        self._fit(self.up, self.quantizer(self.down(h).unsqueeze(0)).z[0], h)

        def target(c: Tensor) -> Tensor:
            h = c.new_zeros(*c.shape[:-1], self.in_dim)
            h[..., :count] = c[..., :count]
            return h

        return StartCode(linear_units(count, coefficients.shape[1]), target, count)

    @torch.no_grad()
    def start_from_latents(self, latents: Tensor) -> None:
        """Fit the projections to latents, so that a trained continuous tokenizer starts as a discrete one.

        The first projection computes the principal components of the latents and their code; the second restores the
        latents from the codewords by least squares. If the quantizer has fewer channels than the latents, the components
        with the largest variance are kept.

        Args:
            latents: (N, in_dim) positions, the same on every rank; N much larger than `dim`.

        Raises:
            SmaltiError: the quantizer has no such start.
        """
        x = latents[:, : self.out_dim].double()
        centered = x - x.mean(0)
        variances, directions = torch.linalg.eigh(centered.T @ centered / len(x))
        order = variances.argsort(descending=True)
        variances, directions = variances[order].clamp_min(1e-12), directions[:, order]
        coefficients = ((centered @ directions) / variances.sqrt()).to(latents)
        goal = self.quantizer.linear_start(coefficients, variances.to(latents), hidden_units=0).target(coefficients)
        x = x.to(latents)
        training = self.training
        self.eval()
        self._fit(self.down, x, goal)
        self._fit(self.up, self.quantizer(self.down(x).unsqueeze(0)).z[0], x)
        self.train(training)

    @staticmethod
    def _fit(layer: nn.Linear, x: Tensor, y: Tensor) -> float:
        """Fit a projection to map x (N, F) to y (N, O), and return the unexplained share of y's variance."""
        equations = NormalEquations(x.shape[1], y.shape[1], x.device)
        equations.add(x, y)
        weight, bias, error = equations.solve(ridge=1e-6)
        layer.weight.zero_()[:, : x.shape[1]] = weight.to(layer.weight)
        layer.bias.copy_(bias)
        return error

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, in_dim) to z (B, N, dim), with the ids and losses of the quantizer."""
        inner = self.quantizer(self.down(h[..., : self.out_dim]))
        return Code(self.up(inner.z), inner.ids, inner.losses)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the margin of the quantizer's input, (B, N, G)."""
        return self.quantizer.decision_margin(self.down(h[..., : self.out_dim].to(self.down.weight.dtype)))

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, G) to (B, N, dim)."""
        return self.up(self.quantizer.lookup(ids).to(self.up.weight.dtype))
