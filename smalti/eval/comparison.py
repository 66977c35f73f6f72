"""Comparison of evaluations: the metrics of several reports in one table, if they were measured in the same way."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.errors import SmaltiError
from smalti.eval.report import FILES

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """A report that `smalti.eval.report.write_report` wrote.

    Attributes:
        folder: the folder of the report.
        content: the content of its metrics.json.
        samples: values per sample, by name of the metric and of the sample.
    """

    folder: Path
    content: dict[str, Any]
    samples: dict[str, dict[str, float]]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The results over the dataset, by name of the metric."""
        return self.content["metrics"]


def read_report(folder: Path) -> Report:
    """Read a report.

    Raises:
        SmaltiError: the folder contains no complete report.
    """
    try:
        content = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        with (folder / FILES[1]).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = {row.pop("name"): row for row in csv.DictReader(file)}
        samples = {
            metric: {name: float(row[metric]) for name, row in rows.items() if row.get(metric)}
            for metric in content["metrics"]
        }
        if "samples_sha256" in content:  # else it is of an earlier version, see `check_comparable`
            _check_content(content)
    except FileNotFoundError as error:
        raise SmaltiError(
            f"{folder} is not a report ({Path(error.filename).name} is missing): pass the folder that `smalti evaluate "
            "--out` wrote."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
        raise SmaltiError(f"The report in {folder} is damaged ({error}): evaluate again.") from error
    return Report(folder, content, samples)


def _check_content(content: dict[str, Any]) -> None:
    """Check the types of what the comparison uses.

    Raises:
        ValueError: an entry has another type. Further errors if it is missing.
    """
    codebook = content["codebook"]
    metrics = [*content["metrics"].values()]
    correct = {
        "metrics": all(isinstance(metric["higher_is_better"], bool) for metric in metrics),
        "values": all(isinstance(metric["value"], int | float) for metric in metrics),
        "protocol": isinstance(content["protocol"]["name"], str),
        "networks": isinstance(content["networks"], dict),
        "data": isinstance(content["data"], dict) and isinstance(content["samples"], int),
        "codebook": codebook is None or isinstance(codebook["bits_per_pixel"], int | float),
    }
    for name, is_correct in correct.items():
        if not is_correct:
            raise ValueError(f"the type of the {name} is wrong")


def check_comparable(reports: Sequence[Report]) -> None:
    """Check that reports can be compared: the same protocol, the same samples, the same networks of the metrics.

    Raises:
        SmaltiError: they differ in one of them, or a report of an earlier version does not record its samples.
    """
    first = reports[0]
    for report in reports:
        if "samples_sha256" not in report.content:
            raise SmaltiError(
                f"{report.folder} was written by an earlier version, which did not record the samples: evaluate again."
            )
        if report.content["protocol"] != first.content["protocol"]:
            names = " and ".join(str(r.content["protocol"].get("name")) for r in (first, report))
            raise SmaltiError(
                f"{first.folder} and {report.folder} have different protocols ({names}), so their values cannot be "
                "compared: evaluate with the same --protocol."
            )
        if report.content["samples_sha256"] != first.content["samples_sha256"]:
            sources = " and ".join(
                f"{r.content['samples']} of {r.content['data'].get('source', 'unknown data')}" for r in (first, report)
            )
            raise SmaltiError(
                f"{first.folder} and {report.folder} were measured on different samples ({sources}), so their values "
                "cannot be compared: evaluate both on the same --data."
            )
        for metric, network in report.content["networks"].items():
            if first.content["networks"].get(metric, network) != network:
                raise SmaltiError(
                    f"{first.folder} and {report.folder} used different networks for {metric}: evaluate both again."
                )


def comparison_table(reports: Sequence[Report]) -> Table:
    """Return the metrics of comparable reports: one row per metric, one column per report.

    The best value of a row is marked with an asterisk. Metrics that are means over samples also show the difference from
    the first report with its standard error over the samples (paired: the standard deviation of the differences per sample
    divided by the square root of their number).
    """
    from rich.table import Table

    first = reports[0]
    table = Table(
        title=f"{first.content['samples']} samples, protocol {first.content['protocol']['name']}",
        title_justify="left",
        caption=f"* best; in parentheses: mean difference from {first.folder} ± its standard error",
        caption_justify="left",
    )
    table.add_column("metric")
    for report in reports:
        table.add_column(str(report.folder), justify="right")
    for name in dict.fromkeys(name for report in reports for name in report.metrics):
        present = [report.metrics[name] for report in reports if name in report.metrics]
        higher = present[0]["higher_is_better"]
        best = (max if higher else min)(metric["value"] for metric in present)
        cells = [_cell(report, first, name, best) for report in reports]
        table.add_row(f"{name} {'↑' if higher else '↓'}", *cells)
    table.add_section()
    table.add_row("bits per pixel", *(_bits_per_pixel(report) for report in reports))
    return table


def _cell(report: Report, first: Report, name: str, best: float) -> str:
    """Return the value of a metric, and its difference from the first report if that has values per sample."""
    if name not in report.metrics:
        return "-"
    value = report.metrics[name]["value"]
    text = f"{value:.4g}{' *' if value == best else ''}"
    values, others = report.samples[name], first.samples.get(name, {})
    differences = [value - others[sample] for sample, value in values.items() if sample in others]
    if report is first or len(differences) < 2:
        return text
    mean = math.fsum(differences) / len(differences)
    variance = math.fsum((difference - mean) ** 2 for difference in differences) / (len(differences) - 1)
    return f"{text} ({mean:+.2g} ± {math.sqrt(variance / len(differences)):.2g})"


def _bits_per_pixel(report: Report) -> str:
    codebook = report.content["codebook"]
    return "continuous" if codebook is None else f"{codebook['bits_per_pixel']:.4g}"
