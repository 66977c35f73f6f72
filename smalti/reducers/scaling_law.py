"""How many visual tokens to use: the scaling law of inference-optimal models (arXiv 2411.03312).

error(N, T) = A / (N^alpha T^beta) + d, with N in 1e9 parameters of the language model and T visual tokens; the error is 1
minus the mean score. FLOPs = 2 N (text + T), in units of 1e9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smalti.errors import SmaltiError


class ScalingLaw(NamedTuple):
    """The parameters of error = A / (N^alpha T^beta) + d."""

    a: float
    alpha: float
    beta: float
    d: float

    def error(self, params: Tensor | float, tokens: Tensor | float) -> Tensor:
        """Return the error for N in 1e9 parameters and T visual tokens; tensors are broadcast. float64."""
        n, t = (torch.as_tensor(x, dtype=torch.float64) for x in (params, tokens))
        return self.a / (n**self.alpha * t**self.beta) + self.d


PUBLISHED_EXPONENTS = (0.077, 0.015)
"""alpha and beta in the paper's figure, for the average over tasks."""
AVERAGE = ScalingLaw(0.5907711460705829, 0.07093746337660971, 0.015101615089973593, 0.0)
"""Least squares with d >= 0 on the published averages over tasks, on which the paper's alpha and beta were fitted."""
OCR = ScalingLaw(0.9172138423798418, 0.02823272402339119, 0.039411928639727235, 0.0)
"""The same on the published scores of tasks that read text: there, tokens matter more than parameters."""


class Plan(NamedTuple):
    """The best model within a budget."""

    error: float
    params: float
    tokens: float
    flops: float


def plan_tokens(
    law: ScalingLaw, params: Sequence[float], tokens: Sequence[float], text: float, budget: float
) -> Plan | None:
    """Return the model and the number of visual tokens with the smallest error within a budget.

    Args:
        law: the scaling law.
        params: sizes to choose from, in 1e9 parameters. One size answers: how many tokens can this model afford?
        tokens: numbers of visual tokens to choose from.
        text: number of text tokens.
        budget: FLOPs in units of 1e9.

    Returns:
        The plan, of equal errors the one with fewer FLOPs; None if nothing fits the budget.

    Raises:
        SmaltiError: a size or a number of tokens is not positive.
    """
    if not params or not tokens or min(*params, *tokens) <= 0:
        raise SmaltiError("Parameters and tokens must be positive: pass sizes in 1e9 parameters and numbers of tokens.")
    plans = []
    for n in params:
        for t in tokens:
            flops = 2 * n * (text + t)
            if flops <= budget:
                plans.append(Plan(float(law.error(n, t)), n, t, flops))
    return min(plans, key=lambda plan: (plan.error, plan.flops), default=None)


@dataclass(frozen=True)
class Bounds:
    """Ranges of the parameters of a fit. Without a lower bound of d, there may be no finite optimum."""

    alpha: tuple[float, float] = (0.0, 1.0)
    beta: tuple[float, float] = (0.0, 1.0)
    d: tuple[float, float] = (0.0, 1.0)


class Fit(NamedTuple):
    """The result of a fit.

    Attributes:
        law: the parameters.
        loss: sum of squared errors.
        intervals: (low, high) of each parameter, in the order of `ScalingLaw`; None if not requested.
    """

    law: ScalingLaw
    loss: float
    intervals: tuple[tuple[float, float], ...] | None = None


_SIDE = 21
"""Points per axis of the search grid of a fit."""
_ZOOM = 0.35
"""Factor by which the search grid shrinks in each round."""
_ROUNDS = 34


def fit_scaling_law(
    params: Tensor,
    tokens: Tensor,
    errors: Tensor,
    bounds: Bounds | None = None,
    *,
    samples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> Fit:
    """Fit a scaling law by least squares within bounds.

    For given alpha and beta, A and d are a linear least-squares problem with a closed solution. The exponents are found
    on a grid that shrinks around its best point.

    Args:
        params: (P,) sizes in 1e9 parameters.
        tokens: (T,) numbers of visual tokens.
        errors: (P, T) measured errors.
        bounds: ranges of the parameters.
        samples: number of bootstrap samples of the residuals for confidence intervals; 0 for none.
        confidence: probability of the intervals.
        seed: seed of the bootstrap.

    Raises:
        SmaltiError: there are fewer than 4 measurements, or the shapes differ.
    """
    bounds = bounds or Bounds()
    if errors.shape != (len(params), len(tokens)) or errors.numel() < 4:
        raise SmaltiError(
            f"Errors of shape {tuple(errors.shape)} do not fit {len(params)} sizes and {len(tokens)} numbers of tokens: "
            "pass one error for each pair, at least 4."
        )
    n, t = torch.meshgrid(params.double().log(), tokens.double().log(), indexing="ij")
    log_n, log_t, measured = n.flatten(), t.flatten(), errors.double().flatten()
    best, loss = _least_squares(log_n, log_t, measured[None], bounds)
    law = ScalingLaw(*best[0].tolist())
    if samples == 0:
        return Fit(law, float(loss[0]))
    fitted = law.error(params.double()[:, None], tokens.double()).flatten()
    residuals = (measured - fitted) * (len(measured) / max(len(measured) - 4, 1)) ** 0.5  # 4 parameters were fitted
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randint(len(measured), (samples, len(measured)), generator=generator)
    resampled, _ = _least_squares(log_n, log_t, fitted + residuals[draw], bounds)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return Fit(law, float(loss[0]), tuple(zip(low.tolist(), high.tolist(), strict=True)))


def _least_squares(log_n: Tensor, log_t: Tensor, errors: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Fit each row of errors (S, K). Returns parameters (S, 4) and losses (S,)."""
    rows = torch.arange(len(errors))
    lower = torch.tensor([bounds.alpha[0], bounds.beta[0]], dtype=torch.float64)
    upper = torch.tensor([bounds.alpha[1], bounds.beta[1]], dtype=torch.float64)
    center, half = ((lower + upper) / 2).expand(len(errors), -1), (upper - lower) / 2
    unit = torch.cartesian_prod(*[torch.linspace(-1, 1, _SIDE, dtype=torch.float64)] * 2)
    best = errors.new_empty(len(errors), 4)
    loss = errors.new_full((len(errors),), float("inf"))
    for _ in range(_ROUNDS):
        points = (center[:, None] + unit * half).clamp(lower, upper)
        shape = (-points[..., :1] * log_n - points[..., 1:] * log_t).exp()  # (S, points, K)
        a, d = _linear(shape, errors[:, None], bounds.d)
        losses = (errors[:, None] - a[..., None] * shape - d[..., None]).square().sum(-1)
        found = losses.argmin(1)
        better = losses[rows, found] < loss
        new = torch.stack((a, points[..., 0], points[..., 1], d), -1)[rows, found]
        best = torch.where(better[:, None], new, best)
        loss = torch.where(better, losses[rows, found], loss)
        center, half = best[:, 1:3], half * _ZOOM
    return best, loss


def _linear(shape: Tensor, errors: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return A and d that minimize |errors - A shape - d|^2 with d in its bounds and A >= 0."""
    shape_mean, error_mean = shape.mean(-1), errors.mean(-1)
    centered = shape - shape_mean[..., None]
    variance = centered.square().sum(-1).clamp(min=1e-300)
    a = (centered * (errors - error_mean[..., None])).sum(-1) / variance
    d = (error_mean - a * shape_mean).clamp(*bounds)
    a = ((errors - d[..., None]) * shape).sum(-1) / shape.square().sum(-1)
    return a.clamp(min=0), d


def search_published_grid(params: Tensor, tokens: Tensor, errors: Tensor) -> Fit:
    """Return the exact optimum of the grid that the published code searches at random, of which it visits a fifth.

    Args:
        params: (P,) sizes in 1e9 parameters.
        tokens: (T,) numbers of visual tokens.
        errors: (P, T) measured errors.
    """
    ranges = ((0.2, 0.7, 50), (0.0, 0.2, 100), (0.0, 0.05, 100), (0.0, 0.3, 10))
    a, alphas, betas, d = (torch.linspace(low, high, count, dtype=torch.float64) for low, high, count in ranges)
    n, t = torch.meshgrid(params.double().log(), tokens.double().log(), indexing="ij")
    measured = errors.double().flatten() - d[:, None]  # (D, K)
    best = (float("inf"), ScalingLaw(0.0, 0.0, 0.0, 0.0))
    for alpha in alphas:
        shape = (-alpha * n - betas[:, None, None] * t).exp().flatten(1)  # (betas, K)
        # |measured - A shape|^2 as a quadratic function of A
        square, cross = shape.square().sum(1)[:, None], shape @ measured.T
        losses = measured.square().sum(1) - 2 * a[:, None, None] * cross + a[:, None, None] ** 2 * square
        index = int(losses.argmin())
        loss = float(losses.flatten()[index])
        if loss < best[0]:
            i, j, k = (int(x) for x in torch.unravel_index(torch.tensor(index), losses.shape))
            best = (loss, ScalingLaw(float(a[i]), float(alpha), float(betas[j]), float(d[k])))
    law = best[1]
    exact = (errors.double() - law.error(params.double()[:, None], tokens.double())).square().sum()
    return Fit(law, float(exact))
