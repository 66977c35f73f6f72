"""`smalti compare`: compare the reports of several evaluations."""

from __future__ import annotations

from pathlib import Path

from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError
from smalti.files import check_writable

_EXAMPLES = (
    "smalti evaluate --tokenizer my-tokenizer --data my/photos --out report-mine",
    "smalti evaluate --tokenizer other-tokenizer --data my/photos --out report-other",
    "smalti compare report-mine report-other --out comparison.html",
)
_NOTES = (
    "Differences are paired: they are means over the samples of differences from the first report, with 95% bootstrap "
    "intervals. A single report is compared with its baseline and its other rivals."
)


def run(name: str, arguments: list[str]) -> int:
    """Print one table with the metrics of all reports, one with their rivals, and write a page on request.

    Raises:
        SmaltiError: a report cannot be read, the reports cannot be compared, or the page exists or cannot be written.
    """
    parser = CommandParser(
        name,
        "Compare the reports of several evaluations, for example of two tokenizers or of the checkpoints of a run: one row "
        "per metric, one column per report. Reports with different protocols or samples are refused.",
        _EXAMPLES,
        _NOTES,
    )
    parser.add_argument("reports", type=Path, nargs="+", help="folders that `smalti evaluate` wrote")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        "-o",
        type=Path,
        metavar="PATH",
        help="HTML file to write: the tables, a rate-distortion plot, the worst, median and best sample with a slider "
        "between original and reconstruction, and the definition of each metric, in one file",
    )
    output.add_argument("--overwrite", action="store_true", help="replace an existing HTML file")
    options = parser.parse(arguments)
    if options.out is not None:
        _check_page(options.out, options.overwrite)

    from rich.console import Console

    from smalti.eval.comparison import read_report
    from smalti.eval.comparison_page import write_comparison_page
    from smalti.eval.comparison_rows import compare
    from smalti.eval.comparison_table import metrics_table, rivals_table

    comparison = compare([read_report(folder) for folder in options.reports])
    console = Console()
    for table in (metrics_table(comparison), rivals_table(comparison)):
        if table is not None:
            console.print(table)
    if options.out is not None:
        write_comparison_page(comparison, options.out)
        print(options.out)
    return 0


def _check_page(page: Path, overwrite: bool) -> None:
    """Check that the page can be written.

    Raises:
        SmaltiError: its name does not end in .html, it exists and may not be replaced, or its folder cannot be written.
    """
    if page.suffix.lower() != ".html" or page.is_dir():
        raise SmaltiError(f"{page} is not a valid name for a page: choose a name that ends in .html.")
    if page.exists() and not overwrite:
        raise SmaltiError(f"{page} already exists: choose another --out, or pass --overwrite.")
    check_writable(page.parent)
