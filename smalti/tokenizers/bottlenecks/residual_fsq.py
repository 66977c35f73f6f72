"""Residual finite scalar quantization."""

from __future__ import annotations

import math

import torch
import vector_quantize_pytorch as library
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, build_inner

_MAX_CODEBOOK_SIZE = 2**20


class ResidualFSQ(LibraryAdapter):
    """Residual finite scalar quantization: each quantizer rounds the previous residual (the algorithm of `ResidualVQ`).

    The levels are symmetric about 0 (arXiv 2411.19842, section 3.2). There are no losses and no parameters.

    Args:
        levels: number of levels of each channel, each at least 2; shared by all quantizers.
        num_quantizers: number of quantizers, which is the number of tokens per position.

    Raises:
        SmaltiError: `levels` is empty or one is below 2, `num_quantizers` is below 1, or the codebook has more than 2^20
            codewords, which the library enumerates.
    """

    def __init__(self, levels: list[int], num_quantizers: int) -> None:
        if not levels or min(levels) < 2:
            raise SmaltiError(f"ResidualFSQ needs one or more levels, each at least 2, not {list(levels)}.")
        codebook_size = math.prod(levels)
        if codebook_size > _MAX_CODEBOOK_SIZE:
            raise SmaltiError(
                f"ResidualFSQ enumerates its codebook, and levels {list(levels)} make {codebook_size} codewords, more than "
                f"{_MAX_CODEBOOK_SIZE}: use fewer levels and more quantizers, or use FSQ."
            )
        super().__init__(len(levels), codebook_size, num_quantizers)
        self.inner = build_inner(library.ResidualFSQ, levels=list(levels), num_quantizers=num_quantizers)

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, num_quantizers) to the sums of their codewords (B, N, C)."""
        if not torch.compiler.is_exporting():
            return self.inner.get_output_from_indices(ids)
        parts = zip(ids.unbind(-1), self.inner.layers, self.inner.scales, strict=True)
        return torch.stack([F.embedding(i, layer.implicit_codebook) * scale for i, layer, scale in parts]).sum(0)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the distance of each residual, in levels, to the middle of two levels, (B, N, num_quantizers).

        A token also depends on the tokens before it: it has at most their margin.
        """
        residuals, margins = self._clamp(h.float()), []
        for layer, scale in zip(self.inner.layers, self.inner.scales, strict=True):
            quantized, _ = layer(residuals / scale)
            bounded = residuals / scale
            bounded = bounded.clamp(-1, 1) if layer.bound_hard_clamp else torch.tanh(bounded)
            position = (layer._levels - 1) * (bounded + 1) / 2
            margins.append((0.5 - (position - position.round()).abs()).amin(dim=-1))
            residuals = residuals - quantized * scale
        return torch.stack(margins, dim=-1).cummin(dim=-1).values

    def init_codebooks(self, vectors: Tensor) -> Tensor:
        """Return the scale of each channel at which its codewords correlate best with it. There is no codebook to fit."""
        std = vectors.std(0).clamp_min(1e-6)
        unit = vectors / std
        grid = torch.linspace(0.2, 1.6, 15).tolist()
        scores = []
        for gain in grid:
            z = self.run_inner((unit * gain).unsqueeze(0))[0][0]
            scores.append((z * unit).sum(0) / z.norm(dim=0).clamp_min(1e-6))
        return torch.tensor(grid).to(std)[torch.stack(scores).argmax(0)] / std

    def find_ids(self, h: Tensor) -> Tensor:
        """Return the indices (B, N, num_quantizers) of the rounded residuals."""
        h, ids = self._clamp(h), []
        for layer, scale in zip(self.inner.layers, self.inner.scales, strict=True):
            quantized = layer.quantize(h / scale)
            ids.append(layer.codes_to_indices(quantized).long())
            h = h - quantized * scale
        return torch.stack(ids, dim=-1)

    def run_inner(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantize h with the library's `ResidualFSQ`."""
        z, ids = self.inner(h)
        return z, ids.long(), {}

    def _clamp(self, h: Tensor) -> Tensor:
        """Limit h to the outermost levels, as the library does before the first quantizer."""
        limit = self.inner.soft_clamp_input_value
        return h if limit is None else torch.tanh(h / limit) * limit
