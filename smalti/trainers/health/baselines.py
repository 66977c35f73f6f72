"""PSNR of methods without training on the validation samples: mean color, bicubic, linear codec.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from smalti.distributed import sum_over_ranks
from smalti.eval.baseline import Factor, equal_bits_factor, make_baseline
from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.eval.nominal_bits import bits_per_position
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.tokenizers.tokenizer import Tokenizer

MEAN_COLOR, BICUBIC, LINEAR_CODEC = "mean_color", "bicubic", "linear_codec"
BASELINES = (MEAN_COLOR, BICUBIC, LINEAR_CODEC)
"""Names of the baselines, from the weakest to the strongest."""


@dataclass
class Baselines:
    """Measures the baselines on validation samples, each sample once.

    Attributes:
        tokenizer: the tokenizer, whose nominal bits bicubic downsampling may spend.
        mean_color: mean color of the training data, red, green and blue in [-1, 1]: what a tokenizer outputs that has not
            learned anything.
        codec: linear codec with the nominal bits of the tokenizer; None if there is none.
    """

    tokenizer: Tokenizer
    mean_color: tuple[float, float, float]
    codec: LinearCodec | None
    _measured: dict[tuple[str, int, tuple[int, ...]], dict[str, float]] = field(default_factory=dict)

    @torch.no_grad()
    def measure(self, pixels: Tensor, names: list[str]) -> dict[str, list[float]]:
        """Return the PSNR of each sample in dB by the name of the baseline.

        A sample that has been measured before is not measured again. It is recognized by its name, its shape and the sum of
        its values.

        Args:
            pixels: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            names: name of each sample.
        """
        original = pixels_to_uint8(pixels)
        sums: list[int] = original.flatten(1).sum(1, dtype=torch.int64).tolist()
        shape = tuple(original.shape[1:])
        keys = [(name, total, shape) for name, total in zip(names, sums, strict=True)]
        new = [index for index, key in enumerate(keys) if key not in self._measured]
        if new:
            values = self._psnr(torch.stack([original[index] for index in new]))
            for position, index in enumerate(new):
                self._measured[keys[index]] = {name: row[position] for name, row in values.items()}
        measured = [self._measured[key] for key in keys]
        return {name: [values[name] for values in measured] for name in self.names}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the baselines that are measured."""
        return BASELINES if self.codec is not None else (MEAN_COLOR, BICUBIC)

    def _psnr(self, original: Tensor) -> dict[str, list[float]]:
        """Return the PSNR of each of (B, 3, H, W) or (B, 3, T, H, W) uint8."""
        color = torch.tensor(self.mean_color, device=original.device).view(3, *[1] * (original.ndim - 2))
        outputs = {
            MEAN_COLOR: pixels_to_uint8(color).expand_as(original),
            BICUBIC: make_baseline(original, self._factor(original)),
        }
        if self.codec is not None:
            outputs[LINEAR_CODEC] = pixels_to_uint8(
                self.codec.to(original.device).reconstruct(uint8_to_pixels(original))
            )
        return {name: mean_over_frames(psnr, original, output).tolist() for name, output in outputs.items()}

    def _factor(self, original: Tensor) -> Factor:
        """Return the factor at which bicubic downsampling has the nominal bits of the tokenizer for such samples."""
        height, width = original.shape[-2:]
        frames = original.shape[2] if original.ndim == 5 else None
        bits = bits_per_position(self.tokenizer) * self.tokenizer.layout((height, width), frames).positions
        return equal_bits_factor((frames or 1, height, width), bits, self.tokenizer.encoder.stride[0])


def mean_color(batches: Iterable[Tensor], device: torch.device) -> tuple[float, float, float]:
    """Return the mean red, green and blue in [-1, 1] of the batches of all processes. All must call this together.

    Args:
        batches: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
        device: device on which the processes exchange tensors.
    """
    total = torch.zeros(4, dtype=torch.float32, device=device)
    for pixels in batches:
        values = pixels.float().transpose(0, 1).flatten(1).mean(1).to(device)
        total += len(pixels) * torch.cat([values, values.new_ones(1)])
    red, green, blue, samples = sum_over_ranks(total).tolist()
    return (red / samples, green / samples, blue / samples) if samples else (0.0, 0.0, 0.0)
