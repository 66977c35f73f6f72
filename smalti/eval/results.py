"""What an evaluation gives.

Shapes: T frames, H, W pixels, G tokens a position.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from smalti.eval.codebook_usage import GroupUsage

BASELINE = "baseline_"
"""Prefix of the baseline's values in `Evaluation.samples`."""


@dataclass(frozen=True)
class Metric:
    """A value, and whether it may stand beside published ones.

    Attributes:
        value: a finite number.
        comparable: False: a stand-in, or another definition than tables of papers have.
        note: what a reader should know about it.
    """

    value: float
    comparable: bool
    note: str | None = None


@dataclass(frozen=True)
class CodebookUse:
    """The code's nominal size and its use over the whole set.

    Attributes:
        codebook_size: values that one token can take.
        tokens_per_position: G.
        bits_per_pixel: bits of all tokens of the set / its pixels: of all frames, and what padding costs is in it.
        compression_ratio: 24 / bits_per_pixel.
        groups: one a token of a position.
    """

    codebook_size: int
    tokens_per_position: int
    bits_per_pixel: float
    compression_ratio: float
    groups: tuple[GroupUsage, ...]


@dataclass(frozen=True)
class Example:
    """A sample for people to look at.

    Attributes:
        name: of the sample.
        original: (3, H, W), or a clip's first frames (3, T, H, W), uint8, on the CPU.
        reconstruction: the same.
    """

    name: str
    original: Tensor
    reconstruction: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        samples: values of every sample by its name, in the order of the names; the baseline's have the prefix
            `BASELINE`.
        metrics: over the set, by name.
        baseline: the same metrics of fewer and smaller frames, see `smalti.eval.baseline.baseline`.
        factor: of the baseline along (T, H, W): the tokenizer's stride; (1, H, W) of images.
        baseline_bits_per_pixel: 24 bits of each pixel that the baseline keeps / the pixels of the set.
        clips: whether the samples are clips and not images.
        codebook: None: the tokenizer is continuous.
        left_out: why a metric that could be expected is not there, by name.
        examples: the first few samples in the order of the names.
        networks: provenance of the measuring networks, by metric.
        seed: decides, with a sample's name, a generative decoder's noise.
        device: where the tokenizer ran.
        dtype: of the tokenizer's weights.
        processes: how many shared the work.
    """

    samples: dict[str, dict[str, float]]
    metrics: dict[str, Metric]
    baseline: dict[str, Metric]
    factor: tuple[int, int, int]
    baseline_bits_per_pixel: float
    clips: bool
    codebook: CodebookUse | None
    left_out: dict[str, str]
    examples: tuple[Example, ...]
    networks: dict[str, dict[str, str]]
    seed: int
    device: str
    dtype: str
    processes: int
