"""What validation measures while training: means over all samples of all processes, and use of the codebook.

The figures to publish are `smalti evaluate`'s; these show where training goes.
"""

from __future__ import annotations

from torch import Tensor, distributed

from smalti.eval.codebook_usage import IdCounts
from smalti.eval.functional import psnr
from smalti.pixels import frames_as_images, pixels_to_uint8
from smalti.trainers.losses.perceptual import PerceptualLoss


class ValidationMetrics:
    """Sums over the samples that one process saw, and their means over what all saw."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples = 0
        self._counts: list[IdCounts] = []

    def update(self, values: dict[str, Tensor], ids: Tensor | None) -> None:
        """Take in a batch.

        Args:
            values: one value a sample by name, each (B,).
            ids: (B, N, G) int64; None where the tokenizer is continuous.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.double().sum())
        self._samples += len(next(iter(values.values())))
        if ids is not None:
            self._counts = self._counts or [IdCounts() for _ in range(ids.shape[-1])]
            for counts, group in zip(self._counts, ids.unbind(-1), strict=True):
                counts.add(group)

    def results(self, codebook_size: int | None) -> dict[str, float]:
        """The means by name, and `codebook_used` and `codebook_perplexity` a group; empty where nothing was seen.

        All processes must call this, and all get the same.

        Args:
            codebook_size: of the quantizer; None where the tokenizer is continuous.
        """
        for counts in self._counts:
            counts.settle()
        parts: list[ValidationMetrics] = [self]
        if distributed.is_available() and distributed.is_initialized():
            parts = [self] * distributed.get_world_size()
            distributed.all_gather_object(parts, self)
        parts = [part for part in parts if part._samples]
        if not parts:
            return {}
        samples = sum(part._samples for part in parts)
        results = {name: sum(part._sums[name] for part in parts) / samples for name in parts[0]._sums}
        if codebook_size is not None:
            for group in range(len(parts[0]._counts)):
                counts = IdCounts()
                for part in parts:
                    counts.merge(part._counts[group])
                use = counts.use(codebook_size)
                results[f"codebook_used_{group}"] = float(use.used)
                results[f"codebook_perplexity_{group}"] = use.perplexity
        return results


def sample_metrics(x: Tensor, y: Tensor, perceptual: PerceptualLoss | None) -> dict[str, Tensor]:
    """`l1`, `mse`, `psnr` and, where there is a network, `perceptual`: one value a sample, (B,).

    The PSNR and the perceptual distance of a clip are the means over its frames.

    Args:
        x: originals (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
        y: reconstructions of that shape.
        perceptual: sees all frames as images; None leaves it out.
    """
    x, y = x.float(), y.float()
    images = frames_as_images(x), frames_as_images(y)
    values = {
        "l1": (x - y).abs(),
        "mse": (x - y).square(),
        "psnr": psnr(*map(pixels_to_uint8, images)).unflatten(0, (len(x), -1)),
    }
    if perceptual is not None:
        values["perceptual"] = perceptual.distances(*images).unflatten(0, (len(x), -1))
    return {name: _per_sample(value) for name, value in values.items()}


def _per_sample(x: Tensor) -> Tensor:
    """(B, ...) to its means (B,)."""
    return x.flatten(1).mean(1).double()
