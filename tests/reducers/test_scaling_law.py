"""The scaling law: fits recover what made the data, bounds hold, and intervals cover the truth."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.reducers import Bounds, ScalingLaw, fit_scaling_law, plan_tokens
from smalti.reducers.scaling_law import AVERAGE, OCR

N = torch.tensor([0.5, 1.8, 4.0, 7.0])
T = torch.tensor([1.0, 4, 16, 36, 64, 144, 576])


@pytest.mark.parametrize("law", [AVERAGE, ScalingLaw(0.4, 0.3, 0.1, 0.2), ScalingLaw(0.5, 0.02, 0.3, 0.05)])
def test_a_fit_recovers_the_law(law):
    fit = fit_scaling_law(N, T, law.error(N[:, None], T))
    assert fit.loss < 1e-12
    torch.testing.assert_close(fit.law.error(N[:, None], T), law.error(N[:, None], T), rtol=0, atol=1e-6)


def test_bounds_hold():
    law = ScalingLaw(0.4, 0.3, 0.1, 0.2)
    fit = fit_scaling_law(N, T, law.error(N[:, None], T), Bounds(alpha=(0.0, 0.1), d=(0.0, 0.05)))
    assert 0 <= fit.law.alpha <= 0.1
    assert 0 <= fit.law.d <= 0.05
    assert fit.loss > 1e-6


def fit_with_noise(seed, scale):
    law = ScalingLaw(0.5, 0.2, 0.1, 0.0)
    noise = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)).double()
    fit = fit_scaling_law(N, T, law.error(N[:, None], T) + scale * noise, Bounds(d=(0.0, 0.0)), samples=40)
    return list(zip(law, fit.intervals, strict=True))[:3]


def test_intervals_cover_the_truth():
    """Over 25 other seeds, 95% intervals covered 93% of the parameters: a bootstrap of few residuals is a bit narrow."""
    covered = sum(low <= truth <= high for seed in range(10) for truth, (low, high) in fit_with_noise(seed, 0.01))
    assert covered >= 21  # of 30


def test_intervals_grow_with_the_noise():
    small, large = (fit_with_noise(0, scale)[1][1] for scale in (0.002, 0.01))
    assert large[1] - large[0] == pytest.approx(5 * (small[1] - small[0]), rel=0.2)


def test_text_needs_more_tokens_than_the_average_task():
    plans = [plan_tokens(law, [0.5, 1.8, 4, 7], T.tolist(), text=50, budget=1000) for law in (AVERAGE, OCR)]
    assert plans[0].params >= plans[1].params
    assert plans[0].tokens < plans[1].tokens
    assert all(plan.flops == 2 * plan.params * (50 + plan.tokens) <= 1000 for plan in plans)


def test_nothing_fits_and_bad_input():
    assert plan_tokens(AVERAGE, [7], [1], text=50, budget=1) is None
    with pytest.raises(SmaltiError, match="must be positive"):
        plan_tokens(AVERAGE, [0], [1], text=50, budget=1)
    with pytest.raises(SmaltiError, match="do not fit"):
        fit_scaling_law(N, T, torch.rand(4, 6))
