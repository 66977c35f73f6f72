"""The linear codec, the rival that a trained tokenizer should beat: principal components and scalar quantizers.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; K components; L levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.files import atomic_write
from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.linear_start.principal_components import PrincipalComponents, fit_principal_components
from smalti.tokenizers.linear_start.scalar_quantizers import allocate_levels, histograms, lloyd_max

METHOD = (
    "principal components of patches of the tokenizer's stride; for discrete tokenizers each component is quantized by a "
    "Lloyd-Max scalar quantizer, with levels allocated by greedy reverse water-filling at the same nominal bits per latent "
    "position; for continuous tokenizers as many components as latent channels"
)
"""Description for reports."""

CODEC_FILE = "linear_codec.safetensors"
"""Name of the file in the folder of a run and in an exported folder."""

_FORMAT = "smalti-linear-codec-1"


@dataclass(frozen=True)
class LinearCodec:
    """A codec without training: projects patches to principal components and quantizes each of them.

    It is fitted in seconds, by the second moments and the histograms of training data.

    Attributes:
        components: the principal components, K of them.
        levels: values of the levels of each component, in units of its standard deviation; None: no quantization. A
            component with one level is not coded.
    """

    components: PrincipalComponents
    levels: list[Tensor] | None

    @classmethod
    def fit(
        cls, batches: Iterable[Tensor], stride: Stride, *, bits: float | None = None, channels: int | None = None
    ) -> LinearCodec:
        """Fit a codec to training data. With several processes, all must call this, and all get the same codec.

        Args:
            batches: pixels (B, C, H, W) or (B, C, T, H, W) in [-1, 1], a part of the data in each process.
            stride: frames, height and width in pixels per latent position.
            bits: nominal bits per latent position; None for a codec without quantization.
            channels: number of components of a codec without quantization.

        Raises:
            SmaltiError: there is no data, or not exactly one of `bits` and `channels` is given.
        """
        if (bits is None) == (channels is None):
            raise SmaltiError("A linear codec has either bits or channels per latent position: give one of the two.")
        clips = [batch if batch.ndim == 5 else batch.unsqueeze(2) for batch in batches]
        if channels is not None:
            return cls(fit_principal_components(clips, stride, channels), None)
        assert bits is not None
        components = fit_principal_components(clips, stride, max(1, math.floor(bits)))
        std = components.variances.sqrt().clamp_min(1e-12)
        frequencies = histograms([components.project(clip).flatten(0, -2) / std for clip in clips])
        counts = allocate_levels(components.variances.double(), frequencies, bits)
        levels = [
            lloyd_max(frequencies[k : k + 1], count)[0][0].to(std.dtype) if count > 1 else std.new_zeros(1)
            for k, count in enumerate(counts)
        ]
        return cls(components, levels)

    @property
    def bits_per_position(self) -> float | None:
        """Nominal bits per latent position, the sum of log2(levels); None without quantization."""
        return None if self.levels is None else sum(math.log2(len(values)) for values in self.levels)

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Return the reconstruction, not clamped, of pixels (B, C, H, W) or (B, C, T, H, W) in [-1, 1], in their shape."""
        clips = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        components = self.components
        coefficients = components.project(clips.to(components.mean))
        if self.levels is not None:
            std = components.variances.sqrt().clamp_min(1e-12)
            quantized = [
                _round(c, values) for c, values in zip((coefficients / std).unbind(-1), self.levels, strict=True)
            ]
            coefficients = torch.stack(quantized, dim=-1) * std
        restored = components.synthesize(coefficients, *clips.shape[2:])
        return restored if pixels.ndim == 5 else restored.squeeze(2)

    def to(self, device: torch.device | str) -> LinearCodec:
        """Return the codec on another device."""
        parts = self.components
        moved = PrincipalComponents(
            parts.stride, parts.mean.to(device), parts.directions.to(device), parts.variances.to(device)
        )
        return LinearCodec(moved, None if self.levels is None else [values.to(device) for values in self.levels])

    def save(self, path: Path) -> None:
        """Write the codec to a safetensors file, atomically."""
        parts = self.components
        tensors = {"mean": parts.mean, "directions": parts.directions, "variances": parts.variances}
        for k, values in enumerate(self.levels or []):
            tensors[f"levels.{k}"] = values
        metadata = {
            "format": _FORMAT,
            "stride": " ".join(map(str, parts.stride)),
            "quantized": str(self.levels is not None),
        }
        with atomic_write(path) as partial:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, metadata)

    @classmethod
    def load(cls, path: Path) -> LinearCodec:
        """Read a codec that `save` wrote.

        Raises:
            SmaltiError: the file does not exist or is not a linear codec.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != _FORMAT:
                raise KeyError("format")
            time, height, width = map(int, metadata["stride"].split())
            quantized = metadata["quantized"] == "True"
            parts = PrincipalComponents(
                (time, height, width), tensors["mean"], tensors["directions"], tensors["variances"]
            )
            levels = [tensors[f"levels.{k}"] for k in range(len(parts.directions))] if quantized else None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise SmaltiError(
                f"{path} is not a linear codec that `smalti fit` wrote: check the path, or fit one on training data."
            ) from error
        return cls(parts, levels)


def _round(x: Tensor, values: Tensor) -> Tensor:
    """Return the nearest of ascending values for each element of x."""
    edges = (values[1:] + values[:-1]) / 2
    return values[torch.bucketize(x.contiguous(), edges)]
