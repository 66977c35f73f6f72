"""Which published values a value may be compared with: those of equal protocol, data and feature network, as data.

A value is comparable with published ones only if an entry of `PUBLISHED` says so. Every other value gets a reason why not.
To add a paper, read its evaluation code: which files, which resize and crop, which network with which weights.

What is known of the models that Smalti implements:

- WeTok: values for ImageNet and MS-COCO at 256 x 256, by released evaluation code. They are the entries below. Its values
  at the original resolution are for images padded with zeros, without those that have a side of more than 2000 pixels: no
  protocol here does this.
- OneVAE (arXiv 2508.09857): the released code writes videos and computes no metric, so the protocol of its values is not
  known.
- LTX-Video (arXiv 2501.00103): no values of a reconstruction metric with a stated protocol are known.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from smalti.eval.pretrained_weights import SOURCES
from smalti.eval.protocols import PROTOCOLS, Protocol
from smalti.eval.results import MetricResult


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A public dataset, recognized by the number and the names of its files.

    Attributes:
        name: its name.
        samples: number of its samples.
        pattern: regular expression that matches the name of each file without folder and suffix.
        example: name of one file, for messages.
    """

    name: str
    samples: int
    pattern: str
    example: str

    def find_difference(self, names: Collection[str]) -> str | None:
        """Return how samples differ from the complete dataset, or None if they are it.

        Args:
            names: names of the samples: paths of files, or shards with keys.
        """
        if len(names) != self.samples:
            return f"they are {len(names):,} samples instead of {self.samples:,}"
        stems = {PurePosixPath(name).name.partition(".")[0] for name in names}
        if len(stems) < self.samples or not all(re.fullmatch(self.pattern, stem) for stem in stems):
            return f"their names are not like {self.example}"
        return None


@dataclass(frozen=True, kw_only=True)
class PublishedValues:
    """A table of published values.

    Attributes:
        source: paper and table.
        protocol: name of the protocol here that prepares samples in the same way.
        dataset: the samples of the table.
        metrics: metrics whose values may be compared, each with the weights of its network, a key of
            `smalti.eval.pretrained_weights.SOURCES`; None if it has no network.
        differences: remaining small differences by metric, which do not change the meaning of a value.
        other_metrics: why further metrics of the table differ from those here that have the same name.
    """

    source: str
    protocol: str
    dataset: Dataset
    metrics: Mapping[str, str | None]
    differences: Mapping[str, str] = field(default_factory=dict)
    other_metrics: Mapping[str, str] = field(default_factory=dict)


IMAGENET = Dataset(
    name="ImageNet-1k validation",
    samples=50_000,
    pattern=r"ILSVRC2012_val_000[0-5]\d{4}",
    example="ILSVRC2012_val_00000001.JPEG",
)
COCO = Dataset(name="MS-COCO val2017", samples=5_000, pattern=r"\d{12}", example="000000000139.jpg")

# Read from the released evaluation code: Pillow's bilinear resize, center crop; PSNR by scikit-image per image; features of
# pytorch-fid's Inception-v3, which has the weights used here.
_WETOK_METRICS = {"psnr": None, "rfid": "inception"}
_WETOK_DIFFERENCES = {
    "psnr": "the paper's code truncates to 8 bits, this one rounds",
    "rfid": "the paper's code computes features of unrounded reconstructions and resizes them to 299 x 299 on another grid",
}
_WETOK_OTHERS = {"ssim": "the paper's code uses a uniform window of 7 x 7, the SSIM here a Gaussian one of 11 x 11"}

PUBLISHED = tuple(
    PublishedValues(
        source=f"WeTok (arXiv 2508.05599), reconstruction of {dataset.name} at 256 x 256",
        protocol=protocol,
        dataset=dataset,
        metrics=_WETOK_METRICS,
        differences=_WETOK_DIFFERENCES,
        other_metrics=_WETOK_OTHERS,
    )
    for protocol, dataset in (("imagenet256_bilinear", IMAGENET), ("coco256_bilinear", COCO))
)
"""All known tables whose protocol, data and network can be reproduced here."""

PROTOCOL_NOTES = {
    "mcljcv17x256": "VidTok's values (arXiv 2412.13061) are for all consecutive clips of each video, not for the first",
    "imagenet256": "WeTok's values are for imagenet256_bilinear",
    "coco256": "WeTok's values are for coco256_bilinear",
}
"""Why no values are known for a protocol that resembles one of a paper."""


@dataclass(frozen=True)
class Comparability:
    """Whether a value may be compared with published ones.

    Attributes:
        comparable_with: the published values, and the remaining differences; None if there are none.
        reason: why it is not comparable; None if it is.
    """

    comparable_with: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Conditions:
    """What decides about comparability, apart from the metric.

    Attributes:
        protocol: how the samples were prepared.
        names: names of the samples.
        networks: provenance of the networks, by name of the metric.
    """

    protocol: Protocol
    names: Collection[str]
    networks: Mapping[str, Mapping[str, str]]


def find_published(metric: str, result: MetricResult, conditions: Conditions) -> Comparability:
    """Return which published values a value may be compared with, or why with none.

    Args:
        metric: name of the metric.
        result: its result, which says whether published values of the metric exist.
        conditions: how it was measured.
    """
    if not result.comparable:
        return Comparability(reason=f"{metric} is not a metric of published tables")
    protocol = conditions.protocol
    if protocol != PROTOCOLS.get(protocol.name) or not any(e.protocol == protocol.name for e in PUBLISHED):
        note = PROTOCOL_NOTES.get(protocol.name)
        reason = f"no published values with the protocol {protocol.name} are known"
        return Comparability(reason=f"{reason}: {note}" if note else reason)
    entry = next(entry for entry in PUBLISHED if entry.protocol == protocol.name)
    reason = _find_obstacle(entry, metric, conditions)
    if reason is not None:
        return Comparability(reason=reason)
    difference = entry.differences.get(metric)
    return Comparability(comparable_with=f"{entry.source}; {difference}" if difference else entry.source)


def _find_obstacle(entry: PublishedValues, metric: str, conditions: Conditions) -> str | None:
    """Return why a value is not comparable with those of a table of the same protocol, or None if it is."""
    if metric in entry.other_metrics:
        return entry.other_metrics[metric]
    if metric not in entry.metrics:
        return f"{entry.source} has no {metric}"
    difference = entry.dataset.find_difference(conditions.names)
    if difference is not None:
        return f"the samples are not those of {entry.dataset.name}: {difference}"
    weights = entry.metrics[metric]
    if weights is not None:
        digest = conditions.networks.get(metric, {}).get("sha256", "")
        if not digest.startswith(SOURCES[weights].prefix):
            return f"the network of {metric} is not that of published values ({SOURCES[weights].file})"
    return None
