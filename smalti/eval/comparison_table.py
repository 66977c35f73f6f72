"""The comparison of reports in the terminal: a table of the metrics, and one of the rivals of each tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from smalti.eval.comparison import Report
from smalti.eval.comparison_rows import Cell, Comparison, format_difference
from smalti.eval.paired_differences import FEW_SAMPLES

if TYPE_CHECKING:
    from rich.table import Table


def metrics_table(comparison: Comparison) -> Table:
    """Return the metrics of the reports: one row per metric, one column per report.

    The best value of a row is marked with an asterisk. Metrics that are means over samples also show the difference from
    the first report with its bootstrap interval over the samples.
    """
    from rich.markup import escape
    from rich.table import Table

    reports = comparison.reports
    first = reports[0]
    table = Table(
        title=f"{count_samples(first.content['samples'])}, protocol {escape(first.content['protocol']['name'])}",
        title_justify="left",
        caption=escape(_caption(reports)) or None,
        caption_justify="left",
    )
    table.add_column("metric")
    for report in reports:
        table.add_column(escape(str(report.folder)), justify="right")
    for row in comparison.metrics:
        cells = (escape(_format_cell(cell)) for cell in row.cells)
        table.add_row(f"{escape(row.name)} {'↑' if row.higher_is_better else '↓'}", *cells)
    table.add_section()
    table.add_row("bits per pixel", *(format_number(report.bits_per_pixel) for report in reports))
    return table


def rivals_table(comparison: Comparison) -> Table | None:
    """Return the rivals of each tokenizer, or None if the reports have none."""
    from rich.markup import escape
    from rich.table import Table

    if not comparison.rivals:
        return None
    table = Table(title="baseline and rivals of each tokenizer", title_justify="left", caption_justify="left")
    ranking = comparison.reports[0].ranking_metric
    if ranking is not None:
        table.caption = escape(f"lead: {ranking} of the tokenizer minus that of the rival [95% bootstrap interval]")
    headings = ("report", "rival", "bits per pixel", *([] if ranking is None else [ranking, "lead"]))
    for index, heading in enumerate(headings):
        table.add_column(escape(heading), justify="left" if index < 2 else "right")
    for row in comparison.rivals:
        cells = [str(row.report.folder), row.rival.name, format_number(row.rival.bits_per_pixel)]
        if ranking is not None:
            cells.append(format_number(row.rival.metrics.get(ranking)))
            cells.append("-" if row.lead is None else format_difference(row.lead))
        table.add_row(*map(escape, cells))
    return table


def format_number(value: float | None) -> str:
    """Return a number with four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def count_samples(samples: int) -> str:
    """Return a number of samples in words: "1 sample"."""
    return f"{samples} sample{'' if samples == 1 else 's'}"


def few_samples_note(samples: int) -> str:
    """Return a warning about intervals of few samples, or nothing."""
    return f"; with fewer than {FEW_SAMPLES} samples, intervals are too narrow" if samples < FEW_SAMPLES else ""


def _caption(reports: Sequence[Report]) -> str:
    if len(reports) < 2:
        return ""
    first = reports[0]
    note = few_samples_note(first.content["samples"])
    return f"* best; in parentheses: mean difference from {first.folder} [95% bootstrap interval over samples]{note}"


def _format_cell(cell: Cell) -> str:
    if cell.value is None:
        return "-"
    text = f"{cell.value:.4g}{' *' if cell.best else ''}"
    return text if cell.difference is None else f"{text} ({format_difference(cell.difference)})"
