"""Comparing ids and values of two programs that compute the same function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

MARGIN = 1e-5
"""Decision margin from which on ids must be equal. Below it, rounding decides."""

TOLERANCE = 1e-4
"""Maximum difference of pixels, and of latents relative to max(1, |latent|)."""


@dataclass
class Difference:
    """Differences between a reference and a program, added up over samples.

    Attributes:
        tokens: number of ids that were compared.
        mismatches: number of ids that differ.
        broken: number of ids that differ although their margin is at least `MARGIN`.
        largest_margin: largest margin of an id that differs; None if none differs.
        uncertain: number of ids with a margin below `MARGIN`, whether they differ or not.
        latents: maximum difference of latents, relative to max(1, |latent|); None if the tokenizer is discrete.
        pixels: maximum difference of pixels; None if none were compared.
    """

    tokens: int = 0
    mismatches: int = 0
    broken: int = 0
    largest_margin: float | None = None
    uncertain: int = 0
    latents: float | None = None
    pixels: float | None = None
    margins: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def passed(self) -> bool:
        """Whether the promise holds. NaN fails."""
        values = [value for value in (self.latents, self.pixels) if value is not None]
        return self.broken == 0 and all(value <= TOLERANCE for value in values)

    def add_ids(self, expected: Sequence[Tensor], ids: Sequence[Tensor], margins: Sequence[Tensor]) -> None:
        """Count ids that differ."""
        for theirs, ours, margin in zip(expected, ids, margins, strict=True):
            different = ours != theirs
            self.tokens += different.numel()
            self.mismatches += int(different.sum())
            self.broken += int((different & (margin >= MARGIN)).sum())
            self.uncertain += int((margin < MARGIN).sum())
            if different.any():
                self.largest_margin = max(self.largest_margin or 0.0, float(margin[different].max()))
            self.margins.append(margin.flatten().float())

    def add_latents(self, expected: Sequence[Tensor], latents: Sequence[Tensor]) -> None:
        """Record the maximum difference of latents."""
        for theirs, ours in zip(expected, latents, strict=True):
            if theirs.numel():
                self.latents = _maximum(self.latents, (ours - theirs).abs() / theirs.abs().clamp_min(1))

    def add_pixels(self, expected: Tensor, pixels: Tensor) -> None:
        """Record the maximum difference of pixels."""
        self.pixels = _maximum(self.pixels, (pixels - expected).abs())

    def __str__(self) -> str:
        """Return what differs, in words."""
        parts = [f"{self.mismatches} of {self.tokens} ids differ"] if self.tokens else []
        if self.largest_margin is not None:
            parts.append(f"with margins up to {self.largest_margin:.2g}")
        values = (("latents", self.latents), ("pixels", self.pixels))
        return ", ".join(parts + [f"{name} differ by {value:.2g}" for name, value in values if value is not None])

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the quantiles of the margins and whether the promise holds."""
        content = asdict(self)
        del content["margins"]
        margins = torch.cat(self.margins) if self.margins else torch.empty(0)
        finite = margins[margins.isfinite()]
        if len(finite):
            content["median_margin"] = float(finite.median())
            content["smallest_margin"] = float(finite.min())
        return content | {"passed": self.passed}


def _maximum(previous: float | None, difference: Tensor) -> float:
    value = float(difference.max())
    return value if math.isnan(value) else max(previous or 0.0, value)
