"""The comparison of reports as a page: metrics, rate-distortion plot, pictures with sliders, definitions and provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.eval.comparison import Report
from smalti.eval.comparison_pictures import PICTURE_STYLE, SLIDER_SCRIPT, pictures_section
from smalti.eval.comparison_rows import Cell, Comparison, MetricRow, format_difference
from smalti.eval.comparison_table import count_samples, few_samples_note, format_number
from smalti.eval.html_page import escape, html_page, table
from smalti.eval.rate_distortion_plot import RateSeries, rate_distortion_plot
from smalti.files import atomic_write

_STYLE = """
.best { font-weight: 700 } .difference { color: var(--soft); font-size: .85rem; white-space: nowrap; display: block }
.nowrap { white-space: nowrap } .better { color: var(--good) } .worse { color: var(--bad) }
pre { overflow-x: auto; font-size: .85rem } summary { cursor: pointer; padding: .3rem 0 }
"""
_PROVENANCE = (
    "protocol",
    "data",
    "samples",
    "samples_sha256",
    "skipped",
    "tokenizer",
    "networks",
    "seed",
    "environment",
)
_CODEBOOK_COLUMNS = ("used", "reachable", "reachable_share", "perplexity", "tokens")
_MISSING = "not recorded by the version that wrote the report"


def write_comparison_page(comparison: Comparison, file: Path) -> None:
    """Write a comparison to one HTML file that needs no other file. An existing file is replaced.

    Raises:
        SmaltiError: a picture of a report cannot be read, or the file cannot be written.
    """
    page = comparison_page(comparison)
    try:
        with atomic_write(file) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SmaltiError(f"{file} cannot be written ({error.strerror}): choose another --out.") from error


def comparison_page(comparison: Comparison) -> str:
    """Return the page of a comparison.

    Raises:
        SmaltiError: a picture of a report cannot be read.
    """
    reports = comparison.reports
    first = reports[0]
    names = ", ".join(str(report.folder) for report in reports)
    title = f"Comparison of {names}" if len(reports) > 1 else f"Report {names}"
    data, protocol = first.content["data"].get("source", "unknown data"), first.content["protocol"]["name"]
    lead = f"{count_samples(first.content['samples'])} of {data}, prepared by the protocol {protocol}"
    sections = (
        _metrics_section(comparison),
        _rivals_section(comparison),
        pictures_section(reports),
        _codebook_section(reports),
        _definitions_section(comparison),
        _provenance_section(reports),
    )
    body = f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}.</p>{"".join(sections)}'
    return html_page(title, body, style=_STYLE + PICTURE_STYLE, script=SLIDER_SCRIPT)


def _metrics_section(comparison: Comparison) -> str:
    reports = comparison.reports
    rows = [
        (
            f"{escape(row.name)} {'↑' if row.higher_is_better else '↓'}",
            *(_cell(c, row.higher_is_better) for c in row.cells),
        )
        for row in comparison.metrics
    ]
    rows.append(("bits per pixel", *(format_number(report.bits_per_pixel) for report in reports)))
    header = ("", *(escape(report.folder) for report in reports))
    note = ""
    if len(reports) > 1:
        few = few_samples_note(reports[0].content["samples"])
        first = escape(reports[0].folder)
        note = (
            f'<p class="soft">Bold: best. Below a value: mean difference from {first} over the samples, with its 95% '
            f"bootstrap interval, colored if it excludes zero{few}.</p>"
        )
    return f"<h2>Metrics</h2>{table(header, rows)}{note}"


def _cell(cell: Cell, higher_is_better: bool) -> str:
    text = format_number(cell.value)
    value = f'<span class="best">{text}</span>' if cell.best else text
    if cell.difference is None:
        return value
    kind = ""
    if cell.difference.excludes_zero:
        kind = " better" if (cell.difference.mean > 0) == higher_is_better else " worse"
    return f'{value}<span class="difference{kind}">{format_difference(cell.difference)}</span>'


def _rivals_section(comparison: Comparison) -> str:
    series = _make_series(comparison.reports)
    plot = rate_distortion_plot(series) if series else ""
    if not comparison.rivals:
        return f"<h2>Rate and distortion</h2>{plot}"
    ranking = comparison.reports[0].ranking_metric
    metrics = [name for name in comparison.rival_metrics if name != ranking]
    header = ("report", "rival", "bits per pixel", escape(ranking or ""), "lead", *map(escape, metrics))
    rows, terms = [], {}
    for row in comparison.rivals:
        rival = row.rival
        bits = format_number(rival.bits_per_pixel)
        value = format_number(None if ranking is None else rival.metrics.get(ranking))
        values = (format_number(rival.metrics.get(name)) for name in metrics)
        lead = "-" if row.lead is None else f'<span class="nowrap">{format_difference(row.lead)}</span>'
        rows.append((escape(row.report.folder), escape(rival.name), bits, value, lead, *values))
        title = f"{rival.name} at equal {rival.equal}" if rival.equal else rival.name
        terms.setdefault(title, rival.description or _MISSING)
    note = (
        f'<p class="soft">Lead: mean difference of {escape(ranking or "")}, tokenizer minus rival, with its 95% bootstrap '
        "interval. Bits of the tokenizer are nominal.</p>"
    )
    entries = "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in terms.items())
    return f"<h2>Rate and distortion</h2>{plot}{table(header, rows, text_columns=2)}{note}<dl>{entries}</dl>"


def _make_series(reports: Sequence[Report]) -> list[RateSeries]:
    """Return what the rate-distortion plot shows: each tokenizer, and one curve per rival, of all reports together.

    A rival whose values differ between reports at the same bits, such as a codec that was fitted to other data, gets a
    curve per report.
    """
    tokenizers, curves = [], {}
    for report in reports:
        bits = report.bits_per_pixel
        if "psnr" in report.metrics and bits is not None and bits > 0:
            point = (bits, report.metrics["psnr"]["value"])
            tokenizers.append(RateSeries(str(report.folder), [point], emphasized=True))
        for rival in report.rivals:
            points = dict(rival.curve)
            if rival.bits_per_pixel is not None and "psnr" in rival.metrics:
                points[rival.bits_per_pixel] = rival.metrics["psnr"]
            known = curves.setdefault(rival.name, {})
            if any(abs(known.get(bits, psnr) - psnr) > 1e-6 for bits, psnr in points.items()):
                known = curves.setdefault(f"{rival.name} of {report.folder}", {})
            known.update({bits: psnr for bits, psnr in points.items() if bits > 0})
    return [*tokenizers, *(RateSeries(name, sorted(points.items())) for name, points in curves.items() if points)]


def _codebook_section(reports: Sequence[Report]) -> str:
    rows = []
    for report in reports:
        for index, group in enumerate((report.content["codebook"] or {}).get("groups", [])):
            values = (_show(group.get(column)) for column in _CODEBOOK_COLUMNS)
            rows.append((escape(report.folder), str(index), *values))
    if not rows:
        return ""
    header = ("report", "token of a position", *(column.replace("_", " ") for column in _CODEBOOK_COLUMNS))
    return f"<h2>Codebook</h2>{table(header, rows)}"


def _show(value: Any) -> str:
    return format_number(value) if isinstance(value, float) else escape("-" if value is None else value)


def _definitions_section(comparison: Comparison) -> str:
    """Return what each number is, and which metrics are comparable with published values."""
    reports = comparison.reports
    terms = [(row.name, _remarks(row, reports)) for row in comparison.metrics]
    counting = next((bits["counting"] for report in reports if (bits := report.content.get("bits"))), _MISSING)
    terms.append(("bits per pixel", [counting]))
    codebooks = (report.content["codebook"] or {} for report in reports)
    definitions = next((found for codebook in codebooks if (found := codebook.get("definitions"))), {})
    terms += [(name.replace("_", " "), [text]) for name, text in definitions.items()]
    entries = "".join(
        f"<dt>{escape(name)}</dt>{''.join(f'<dd>{escape(remark)}.</dd>' for remark in remarks)}"
        for name, remarks in terms
    )
    return f"<h2>Definitions</h2><dl>{entries}</dl>"


def _remarks(row: MetricRow, reports: Sequence[Report]) -> list[str]:
    """Return the definition of a metric, and whether it is comparable, by the first report that has it."""
    report = next(report for report in reports if row.name in report.metrics)
    entry = report.metrics[row.name]
    reason = entry.get("not_comparable_because") or _MISSING
    comparable_with = entry.get("comparable_with")
    return [
        report.content.get("definitions", {}).get(row.name, _MISSING),
        f"Comparable with {comparable_with}" if comparable_with else f"Not comparable with published values: {reason}",
        *([entry["note"]] if entry.get("note") else []),
    ]


def _provenance_section(reports: Sequence[Report]) -> str:
    """Return everything that is needed to repeat each evaluation."""
    details = []
    for report in reports:
        content = {key: report.content.get(key, _MISSING) for key in _PROVENANCE}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        details.append(f"<details><summary>{escape(report.folder)}</summary><pre>{escape(text)}</pre></details>")
    return f"<h2>Protocol, data, tokenizer and networks</h2>{''.join(details)}"
