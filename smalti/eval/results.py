"""The results of an evaluation, as plain data.

Shapes: T frames, H, W pixels; G tokens per position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from smalti.channel_groups import RGB, ChannelGroups
from smalti.eval.codebook_usage import GroupUsage

BASELINE_PREFIX = "baseline_"
"""Prefix of the baseline's values in `Evaluation.samples`."""


@dataclass(frozen=True)
class MetricResult:
    """The value of a metric, with what is needed to interpret it.

    Attributes:
        value: a finite number.
        comparable: whether published values of this metric exist. False for proxies. Whether this value may be compared
            with them depends on protocol and data too, see `smalti.eval.published`.
        higher_is_better: direction of the metric.
        range: (lowest, highest) possible value; may be infinite.
        definition: what the value is.
        unit: unit of the value, such as "dB"; may be empty.
        note: what readers of this value should know; None if there is nothing.
        details: further numbers behind the value, by name.
    """

    value: float
    comparable: bool
    higher_is_better: bool
    range: tuple[float, float]
    definition: str
    unit: str = ""
    note: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CodebookUsage:
    """Bits per pixel of the tokens, and codebook usage over the dataset.

    Attributes:
        codebook_size: number of values that one token can have.
        tokens_per_position: number of tokens per latent position, G.
        bits_per_pixel: bits of all tokens / pixels of all frames. The tokens include those for padding.
        compression_ratio: 8 bits per channel of a pixel (24 for photos) / bits_per_pixel.
        groups: usage of the codebook by each of the G tokens.
    """

    codebook_size: int
    tokens_per_position: int
    bits_per_pixel: float
    compression_ratio: float
    groups: tuple[GroupUsage, ...]


@dataclass(frozen=True)
class Example:
    """An original and its reconstruction, to look at.

    Attributes:
        name: name of the sample.
        original: (3, H, W), or the first frames of a clip (3, T, H, W), uint8, on the CPU. See
            `smalti.eval.examples.copy_part`.
        reconstruction: like `original`.
        panels: titles of the pictures along T, if they are the groups of channels of an image; () for colors and clips.
    """

    name: str
    original: Tensor
    reconstruction: Tensor
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class RivalResult:
    """What a rival of the tokenizer reached at the tokenizer's rate.

    Attributes:
        label: name for readers, such as "JPEG".
        description: the method, its settings, and what its bits count.
        equal: what equals the tokenizer's nominal bits: "nominal bits" of the rival, or at most the "bytes" of its files.
        bits_per_pixel: bits of all samples / pixels of all samples.
        file_bits_per_pixel: the same for complete files, with what `bits_per_pixel` does not count; None without files.
        metrics: means over the samples, by name of the metric.
        curve: (bits per pixel, mean PSNR in dB) at several rates, from the lowest to the highest.
    """

    label: str
    description: str
    equal: str
    bits_per_pixel: float
    file_bits_per_pixel: float | None
    metrics: dict[str, float]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RivalComparison:
    """The tokenizer and its rivals, on the same samples, by the metrics that have values per sample.

    Attributes:
        samples: names of the samples, sorted. They may be a part of the dataset.
        bits_per_pixel: nominal bits of the tokenizer's latents of these samples / their pixels.
        metrics: means of the tokenizer over these samples, by name of the metric.
        rivals: results by name of the rival.
    """

    samples: tuple[str, ...]
    bits_per_pixel: float
    metrics: dict[str, float]
    rivals: dict[str, RivalResult]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        samples: values of each sample, by name of the sample (sorted) and of the metric. The baseline's metrics have the
            prefix `BASELINE_PREFIX`, those of a rival its name and an underscore.
        samples_sha256: SHA-256 of the names and the 8-bit pixels of all samples, as 64 hexadecimal digits.
        metrics: results over the dataset, by name of the metric, in the order of the metrics.
        baseline: the metrics of reconstructions for the baseline, which has no latents. See
        `smalti.eval.baseline.make_baseline`. bits_per_pixel: nominal bits of the latents / pixels of all frames. See
        `smalti.eval.nominal_bits`. bits_counting: how the nominal bits are counted.
        baseline_bits_per_pixel: 8 bits per channel of each pixel that the baseline keeps / pixels of the dataset. It equals
            `bits_per_pixel` but for whole rows and columns.
        clips: whether the samples are clips, not images.
        channels: groups of channels of the samples.
        codebook: None if the tokenizer is continuous.
        left_out: why a metric, the codebook usage, or a rival has no result, by name.
        examples: samples to look at, from the worst to the best by the first metric that has values per sample. See
            `smalti.eval.examples`.
        networks: provenance of the networks, by name of the metric.
        seed: seed for the noise of a generative decoder, together with the name of a sample.
        device: device that the tokenizer ran on.
        dtype: dtype of the tokenizer's weights.
        processes: number of processes that shared the work.
        rivals: rivals of the tokenizer, such as JPEG at equal bytes; None if none was to be measured.
    """

    samples: dict[str, dict[str, float]]
    samples_sha256: str
    metrics: dict[str, MetricResult]
    baseline: dict[str, MetricResult]
    bits_per_pixel: float
    bits_counting: str
    baseline_bits_per_pixel: float
    clips: bool
    codebook: CodebookUsage | None
    left_out: dict[str, str]
    examples: tuple[Example, ...]
    networks: dict[str, dict[str, str]]
    seed: int
    device: str
    dtype: str
    processes: int
    rivals: RivalComparison | None = None
    channels: ChannelGroups = field(default_factory=lambda: dict(RGB))
