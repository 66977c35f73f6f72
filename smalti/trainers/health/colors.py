"""Contrast, saturation and average color of reconstructions, compared with those of the originals.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Colors:
    """Sums over validation samples.

    Attributes:
        samples: number of samples.
        contrast: sum of the standard deviations over the pixels of a sample, of (originals, reconstructions).
        saturation: sum of the standard deviations of the colors from the gray of the same pixel, likewise.
        cast: sum of the mean errors of red, green and blue.
    """

    samples: int = 0
    contrast: list[float] = field(default_factory=lambda: [0.0, 0.0])
    saturation: list[float] = field(default_factory=lambda: [0.0, 0.0])
    cast: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    @torch.no_grad()
    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add a batch of pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]."""
        self.samples += len(original)
        errors = (reconstruction.float() - original.float()).flatten(2).mean(2).sum(0)
        sums = [errors]
        for pixels in (original, reconstruction):
            pixels = pixels.float().flatten(2)  # (B, 3, pixels)
            sums.append(pixels.std(2, correction=0).mean(1).sum()[None])
            sums.append((pixels - pixels.mean(1, keepdim=True)).square().mean((1, 2)).sqrt().sum()[None])
        values: list[float] = torch.cat(sums).tolist()  # the host waits for the device once
        self.cast = [a + b for a, b in zip(self.cast, values[:3], strict=True)]
        self.contrast = [self.contrast[0] + values[3], self.contrast[1] + values[5]]
        self.saturation = [self.saturation[0] + values[4], self.saturation[1] + values[6]]

    def merge(self, other: Colors) -> None:
        """Add the samples of another process."""
        self.samples += other.samples
        for name in ("contrast", "saturation", "cast"):
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            setattr(self, name, [one + two for one, two in pairs])

    @property
    def contrast_ratio(self) -> float | None:
        """Contrast of the reconstructions divided by that of the originals; None if the originals have none."""
        return _ratio(self.contrast, self.samples)

    @property
    def saturation_ratio(self) -> float | None:
        """Saturation of the reconstructions divided by that of the originals; None if the originals are gray."""
        return _ratio(self.saturation, self.samples)

    @property
    def mean_error(self) -> list[float]:
        """Mean error of red, green and blue, in levels of 8 bits."""
        return [127.5 * value / max(self.samples, 1) for value in self.cast]


def _ratio(sums: list[float], samples: int) -> float | None:
    """Return the ratio, or None if the originals have less than one level of 8 bits on average."""
    original, reconstruction = sums
    return reconstruction / original if original > samples / 127.5 else None
