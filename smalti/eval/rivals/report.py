"""Rivals in reports: JSON, a table for the terminal, and the rate-distortion plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.eval.rate_distortion_plot import RateSeries, rate_distortion_plot
from smalti.eval.results import Evaluation, RivalComparison, RivalResult
from smalti.eval.rivals.measurement import SELECTION

if TYPE_CHECKING:
    from rich.table import Table


def rivals_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return the entries "rivals" and "rivals_measured_on" of metrics.json; both are empty without rivals."""
    comparison = evaluation.rivals
    if comparison is None or not comparison.rivals:
        return {"rivals": {}, "rivals_measured_on": None}
    return {
        "rivals": {name: _describe(rival, comparison, evaluation) for name, rival in comparison.rivals.items()},
        "rivals_measured_on": {
            "samples": list(comparison.samples),
            "selection": SELECTION,
            "tokenizer": {
                "bits_per_pixel": comparison.bits_per_pixel,
                "metrics": _values(comparison.metrics, evaluation),
            },
        },
    }


def rivals_table(evaluation: Evaluation) -> Table | None:
    """Return a table for the terminal: one row per metric, one column per rival; None if no rival has results."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    comparison = evaluation.rivals
    if comparison is None or not comparison.rivals:
        return None
    rivals = comparison.rivals
    count, total = len(comparison.samples), len(evaluation.samples)
    kind = ("clip" if evaluation.clips else "image") + ("" if total == 1 else "s")
    part = f"{count} of {total} {kind}" if count < total else f"{total} {kind}"
    table = Table(
        title=f"Rivals at the tokenizer's bits, {part}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("metric", no_wrap=True)
    for heading in ("tokenizer", *(rival.label for rival in rivals.values())):
        table.add_column(heading, justify="right")
    for name in comparison.metrics:
        cells = (values.get(name) for values in (comparison.metrics, *(rival.metrics for rival in rivals.values())))
        arrow = "↑" if evaluation.metrics[name].higher_is_better else "↓"
        table.add_row(f"{name} {arrow}", *map(_format, cells))
    table.add_section()
    rates = (comparison.bits_per_pixel, *(rival.bits_per_pixel for rival in rivals.values()))
    table.add_row("bits per pixel", *map(_format, rates))
    return table


def rivals_plot(evaluation: Evaluation) -> str | None:
    """Return the rate-distortion plot of the tokenizer and its rivals as SVG; None if it would be empty.

    PSNR is averaged over the samples on which the rivals were measured.
    """
    comparison = evaluation.rivals
    if comparison is None or "psnr" not in comparison.metrics:
        return None
    curves = [RateSeries(rival.label, rival.curve) for rival in comparison.rivals.values() if rival.curve]
    if not curves:
        return None
    point = (comparison.bits_per_pixel, comparison.metrics["psnr"])
    return rate_distortion_plot([RateSeries("tokenizer", [point], emphasized=True), *curves])


def _describe(rival: RivalResult, comparison: RivalComparison, evaluation: Evaluation) -> dict[str, Any]:
    files = {} if rival.file_bits_per_pixel is None else {"file_bits_per_pixel": rival.file_bits_per_pixel}
    return {
        "label": rival.label,
        "description": rival.description,
        "equal": rival.equal,
        "bits_per_pixel": rival.bits_per_pixel,
        **files,
        "samples": len(comparison.samples),
        "metrics": _values(rival.metrics, evaluation),
        "curve": [{"bits_per_pixel": bits, "psnr": psnr} for bits, psnr in rival.curve],
    }


def _values(metrics: dict[str, float], evaluation: Evaluation) -> dict[str, Any]:
    """Return values as metrics.json has them for the tokenizer."""
    return {
        name: {"value": value, "comparable": evaluation.metrics[name].comparable} for name, value in metrics.items()
    }


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"
