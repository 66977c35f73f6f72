"""Reports of `evaluate_channels`: a JSON file, and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.eval.channel_evaluation import ChannelEvaluation
from smalti.files import atomic_write

if TYPE_CHECKING:
    from rich.table import Table

CHANNELS_REPORT = "channels.json"
"""Name of the file in the folder of a report."""


def write_channel_report(evaluation: ChannelEvaluation, folder: Path, origin: Mapping[str, str], skipped: int) -> Path:
    """Write the results atomically, and return the file.

    Args:
        evaluation: the results.
        folder: folder to write to, created if it does not exist.
        origin: what was evaluated: tokenizer, data and protocol.
        skipped: number of unreadable samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {**origin, "skipped": skipped, "count": len(evaluation.samples), **asdict(evaluation)}
    file = folder / CHANNELS_REPORT
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file


def comparison_table(means: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of the means of one or several reports.

    Args:
        means: values by name of the metric, by title of the column.
    """
    from rich.table import Table

    table = Table("metric", *means)
    for metric in next(iter(means.values())):
        unit = " (dB)" if metric.startswith("psnr") else ""
        digits = 2 if unit else 4
        table.add_row(f"{metric}{unit}", *(f"{values[metric]:.{digits}f}" for values in means.values()))
    return table
