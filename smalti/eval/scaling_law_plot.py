"""The plot of a scaling law: the error over the number of visual tokens, one curve per size of the language model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from smalti.eval.rate_distortion_plot import RateSeries, rate_distortion_plot
from smalti.reducers import ScalingLaw


def scaling_law_plot(
    law: ScalingLaw, params: Sequence[float], tokens: Sequence[float], errors: Tensor | None = None
) -> str:
    """Draw a scaling law, and the measurements that it was fitted to.

    Args:
        law: the law.
        params: sizes in 1e9 parameters, one curve each.
        tokens: numbers of visual tokens.
        errors: (sizes, numbers of tokens) measured errors; None for the law alone.

    Returns:
        An <svg> element, see `rate_distortion_plot`.
    """
    series = [RateSeries(f"{n:g}B", [(t, float(law.error(n, t))) for t in tokens]) for n in params]
    if errors is not None:
        measured = zip(params, errors.tolist(), strict=True)
        series += [
            RateSeries(f"{n:g}B, t = {t:g}", [(t, error)], emphasized=True)
            for n, row in measured
            for t, error in zip(tokens, row, strict=True)
        ]
    return rate_distortion_plot(series, x_label="visual tokens", y_label="error", smallest_step=0.01)
