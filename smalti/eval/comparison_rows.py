"""What a comparison of reports shows, as data for the terminal and for the page: values and their paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smalti.eval.comparison import Report, Rival, check_comparable
from smalti.eval.paired_differences import Difference, paired_differences


@dataclass(frozen=True)
class Cell:
    """The value of a metric in one report.

    Attributes:
        value: the value; None if the report has none.
        best: whether no other report has a better value. False if there is only one report.
        difference: mean difference from the first report; None for the first report itself, and for metrics without values
            per sample.
    """

    value: float | None
    best: bool = False
    difference: Difference | None = None


@dataclass(frozen=True)
class MetricRow:
    """A metric in all reports.

    Attributes:
        name: its name.
        higher_is_better: its direction.
        cells: one per report.
    """

    name: str
    higher_is_better: bool
    cells: list[Cell]


@dataclass(frozen=True)
class RivalRow:
    """A rival of one tokenizer.

    Attributes:
        report: the report of the tokenizer.
        rival: the baseline or another rival.
        lead: mean difference of the ranking metric, the tokenizer minus the rival; None without values per sample.
    """

    report: Report
    rival: Rival
    lead: Difference | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of one report or more, which were measured in the same way.

    Attributes:
        reports: the reports. Differences are from the first.
        metrics: the metrics of all reports, in the order in which the reports have them.
        rivals: the baseline and the rivals of each report.
    """

    reports: Sequence[Report]
    metrics: list[MetricRow]
    rivals: list[RivalRow]

    @property
    def rival_metrics(self) -> list[str]:
        """The metrics that all rivals of all reports have."""
        return [row.name for row in self.metrics if all(row.name in rival.rival.metrics for rival in self.rivals)]


def compare(reports: Sequence[Report]) -> Comparison:
    """Compare reports.

    Raises:
        SmaltiError: they were not measured in the same way, see `smalti.eval.comparison.check_comparable`.
    """
    check_comparable(reports)
    return Comparison(reports, _compare_metrics(reports), _compare_rivals(reports))


def _compare_metrics(reports: Sequence[Report]) -> list[MetricRow]:
    names = list(dict.fromkeys(name for report in reports for name in report.metrics))
    first, *others = reports
    pairs = [(other, name) for other in others for name in names if name in other.metrics]
    found = paired_differences([(other.samples.get(name, {}), first.samples.get(name, {})) for other, name in pairs])
    differences = {(id(other), name): difference for (other, name), difference in zip(pairs, found, strict=True)}
    return [_make_row(name, reports, differences) for name in names]


def _make_row(name: str, reports: Sequence[Report], differences: dict[tuple[int, str], Difference | None]) -> MetricRow:
    present = [report for report in reports if name in report.metrics]
    higher = present[0].higher_is_better(name)
    best = (max if higher else min)(report.metrics[name]["value"] for report in present)
    cells = []
    for report in reports:
        value = report.metrics[name]["value"] if name in report.metrics else None
        is_best = len(present) > 1 and value == best
        cells.append(Cell(value, is_best, None if report is reports[0] else differences.get((id(report), name))))
    return MetricRow(name, higher, cells)


def _compare_rivals(reports: Sequence[Report]) -> list[RivalRow]:
    pairs = [(report, rival) for report in reports for rival in report.rivals]
    values = []
    for report, rival in pairs:
        metric = report.ranking_metric
        own = {} if metric is None else report.samples[metric]
        values.append((own, report.samples.get(f"{rival.name}_{metric}", {})))
    leads = paired_differences(values)
    return [RivalRow(report, rival, lead) for (report, rival), lead in zip(pairs, leads, strict=True)]


def format_difference(difference: Difference) -> str:
    """Return a difference and its interval as text.

    >>> format_difference(Difference(mean=0.512, low=-0.1, high=1.0, samples=4))
    '+0.51 [-0.10, +1.00]'
    """
    half = (difference.high - difference.low) / 2  # is shown with two digits
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 9) if half > 0 else 2
    mean, low, high = (f"{value:+.{decimals}f}" for value in (difference.mean, difference.low, difference.high))
    return f"{mean} [{low}, {high}]"
