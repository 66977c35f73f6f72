"""Bicubic downsampling as a rival: the baseline of reports, at several rates.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

from torch import Tensor

from smalti.eval.baseline import METHOD, count_kept_pixels, equal_bits_factor, kept_pixel_bits, make_baseline
from smalti.eval.rivals.base import MULTIPLES, Approximation, Rival


class Bicubic(Rival):
    """Fewer and smaller frames with 8 bits per channel, interpolated back to the original size.

    Args:
        frame_stride: temporal stride of the tokenizer; 1 for images.
    """

    name = "bicubic"
    label = "bicubic"
    description = METHOD
    all_channels = True

    def __init__(self, frame_stride: int) -> None:
        self.frame_stride = frame_stride

    def approximate(self, original: Tensor, bits: float) -> dict[float, Approximation]:
        """Approximate a sample at all rates. See `Rival.approximate`."""
        return {multiple: self._downsample(original, multiple * bits) for multiple in MULTIPLES}

    def _downsample(self, original: Tensor, bits: float) -> Approximation:
        frames = original.shape[1] if original.ndim == 4 else 1
        factor = equal_bits_factor(
            (frames, original.shape[-2], original.shape[-1]), bits, self.frame_stride, len(original)
        )
        kept = count_kept_pixels(original[None], factor)
        return Approximation(make_baseline(original[None], factor)[0], float(kept_pixel_bits(len(original)) * kept))
