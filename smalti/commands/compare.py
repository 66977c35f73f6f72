"""`smalti compare`: compare the reports of several evaluations."""

from __future__ import annotations

from pathlib import Path

from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError

_EXAMPLES = (
    "smalti evaluate --tokenizer my-tokenizer --data my/photos --out report-mine",
    "smalti evaluate --tokenizer other-tokenizer --data my/photos --out report-other",
    "smalti compare report-mine report-other",
)


def run(name: str, arguments: list[str]) -> int:
    """Print one table with the metrics of all reports.

    Raises:
        SmaltiError: there is only one report, a report cannot be read, or the reports cannot be compared.
    """
    parser = CommandParser(
        name,
        "Compare the reports of several evaluations, for example of two tokenizers or of the checkpoints of a run: one row "
        "per metric, one column per report. Reports with different protocols or samples are refused.",
        _EXAMPLES,
    )
    parser.add_argument("reports", type=Path, nargs="+", help="two or more folders that `smalti evaluate` wrote")
    options = parser.parse(arguments)
    if len(options.reports) < 2:
        raise SmaltiError(f"{options.reports[0]} is the only report: pass two or more.")

    from rich.console import Console

    from smalti.eval.comparison import check_comparable, comparison_table, read_report

    reports = [read_report(folder) for folder in options.reports]
    check_comparable(reports)
    Console().print(comparison_table(reports))
    return 0
