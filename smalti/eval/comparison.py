"""Reports of several evaluations: reading them, and checking that they were measured in the same way."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.eval.report import FILES

_HIGHER_IN_FIRST_VERSION = ("psnr", "ssim")


@dataclass(frozen=True)
class Rival:
    """What a tokenizer was compared with in its report: the baseline, or a rival such as a codec.

    Attributes:
        name: name in the report, also the prefix of its values per sample.
        description: what it is; empty if the report does not say.
        bits_per_pixel: its rate; None if it has none.
        equal: what is equal to the tokenizer's nominal bits: "nominal bits" or "bytes"; None if nothing is.
        metrics: its results by name of the metric.
        curve: (bits per pixel, PSNR in dB) of further rates; may be empty.
    """

    name: str
    description: str
    bits_per_pixel: float | None
    equal: str | None
    metrics: Mapping[str, float]
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Picture:
    """The picture of a sample in a report.

    Attributes:
        original: file of the original.
        reconstruction: file of the reconstruction.
        frames: number of frames or groups of channels side by side in each; 1 for images.
        panels: names of the groups of channels; () otherwise.
    """

    original: Path
    reconstruction: Path
    frames: int
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A report that `smalti.eval.report.write_report` wrote.

    Attributes:
        folder: the folder of the report.
        content: the content of its metrics.json.
        samples: values per sample, by name of the column of per_sample.csv and of the sample.
    """

    folder: Path
    content: dict[str, Any]
    samples: dict[str, dict[str, float]]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The results over the dataset, by name of the metric."""
        return self.content["metrics"]

    def higher_is_better(self, metric: str) -> bool:
        """Return the direction of a metric of this report. Reports of the first version did not record it."""
        return self.metrics[metric].get("higher_is_better", metric in _HIGHER_IN_FIRST_VERSION)

    @property
    def bits_per_pixel(self) -> float | None:
        """Nominal bits per pixel; None in a report of an earlier version about a continuous tokenizer."""
        entry = self.content.get("bits") or self.content["codebook"]
        return None if entry is None else entry["bits_per_pixel"]

    @property
    def ranking_metric(self) -> str | None:
        """The first metric that has values per sample, which ranks the samples."""
        return next((name for name in self.metrics if self.samples.get(name)), None)

    @property
    def pictures(self) -> dict[str, Picture]:
        """Pictures by name of the sample; empty in reports of earlier versions."""
        return {
            entry["name"]: Picture(
                self.folder / entry["original"],
                self.folder / entry["reconstruction"],
                entry.get("frames", 1),
                tuple(map(str, entry.get("panels", ()))),
            )
            for entry in self.content.get("pictures", [])
        }

    @property
    def rivals(self) -> list[Rival]:
        """The rivals, after the baseline, unless it is one of them: "bicubic" is the baseline with a curve."""
        entries = dict(self.content.get("rivals") or {})
        if self.content.get("baseline") and "bicubic" not in entries:
            entries = {"baseline": self.content["baseline"], **entries}
        return [_read_rival(name, entry) for name, entry in entries.items()]


def _read_rival(name: str, entry: Mapping[str, Any]) -> Rival:
    curve = tuple((float(point["bits_per_pixel"]), float(point["psnr"])) for point in entry.get("curve") or ())
    return Rival(
        name=name,
        description=entry.get("description") or entry.get("method") or "",
        bits_per_pixel=entry.get("bits_per_pixel"),
        equal=entry.get("equal"),
        metrics={metric: result["value"] for metric, result in entry["metrics"].items()},
        curve=tuple(sorted(curve)),
    )


def read_report(folder: Path) -> Report:
    """Read a report.

    Raises:
        SmaltiError: the folder contains no complete report.
    """
    try:
        content = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        with (folder / FILES[1]).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = {row.pop("name"): row for row in csv.DictReader(file)}
        columns = dict.fromkeys(column for row in rows.values() for column in row if column)
        samples = {
            column: {name: float(row[column]) for name, row in rows.items() if row.get(column)} for column in columns
        }
        report = Report(folder, content, samples)
        _check_content(report)
    except FileNotFoundError as error:
        raise SmaltiError(
            f"{folder} is not a report ({Path(error.filename).name} is missing): pass the folder that `smalti evaluate "
            "--out` wrote."
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error, RecursionError) as error:
        raise SmaltiError(f"The report in {folder} is damaged ({error}): evaluate again.") from error
    return report


def _check_content(report: Report) -> None:
    """Check the types of what the comparison uses.

    Raises:
        ValueError: an entry has another type, or a picture is outside of the report. Further errors if it is missing.
    """
    content = report.content
    points = [(rival.bits_per_pixel, *rival.metrics.values()) for rival in report.rivals]
    points += [point for rival in report.rivals for point in rival.curve]
    pictures = report.pictures.values()
    files = [file for picture in pictures for file in (picture.original, picture.reconstruction)]
    correct = {
        "metrics": all(isinstance(report.higher_is_better(name), bool) for name in report.metrics),
        "values": all(_is_finite(metric["value"]) for metric in report.metrics.values()),
        "protocol": isinstance(content["protocol"]["name"], str),
        "networks": isinstance(content["networks"], dict),
        "data": isinstance(content["data"], dict) and isinstance(content["samples"], int),
        "codebook": all(isinstance(group, dict) for group in (content["codebook"] or {}).get("groups", [])),
        "definitions": all(isinstance(found, dict) for found in _definitions(content)),
        "counting": "bits" not in content or isinstance(content["bits"]["counting"], str),
        "bits": report.bits_per_pixel is None or _is_finite(report.bits_per_pixel),
        "rivals": all(_is_finite(value) for values in points for value in values if value is not None),
        "frames": all(isinstance(picture.frames, int) and 0 < picture.frames < 100 for picture in pictures),
        "pictures": all(file.resolve().is_relative_to(report.folder.resolve()) for file in files),
    }
    for name, is_correct in correct.items():
        if not is_correct:
            raise ValueError(f"the type of the {name} is wrong")


def _definitions(content: dict[str, Any]) -> tuple[object, object]:
    return content.get("definitions", {}), (content["codebook"] or {}).get("definitions", {})


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def check_comparable(reports: Sequence[Report]) -> None:
    """Check that reports can be compared: the same protocol, the same samples, the same networks of the metrics.

    Raises:
        SmaltiError: they differ in one of them, or a report of an earlier version does not record its samples.
    """
    first = reports[0]
    for report in reports if len(reports) > 1 else ():
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
