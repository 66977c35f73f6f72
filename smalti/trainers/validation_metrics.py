"""Validation metrics during training: means over all samples of all processes, and codebook usage.

They show how training progresses. Use `smalti evaluate` for values to publish.

Shapes: B batch; T frames, H, W pixels; N positions; G tokens per position.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from smalti.channel_groups import RGB, ChannelGroups, group_slices
from smalti.distributed import combine_on_rank_0
from smalti.eval.channel_views import measured_values
from smalti.eval.codebook_usage import IdCounts
from smalti.eval.functional import mean_over_frames, psnr
from smalti.trainers.losses.reconstruction import compute_losses


class ValidationMetrics:
    """Accumulates metrics over the samples of one process. `compute` combines all processes."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples = 0
        self._counts: list[IdCounts] = []

    def update(self, values: dict[str, Tensor], ids: Tensor | None) -> None:
        """Add a batch.

        Args:
            values: (B,) values, one per sample, by name.
            ids: (B, N, G) int64; None if the tokenizer is continuous.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.double().sum())
        self._samples += len(next(iter(values.values())))
        if ids is not None:
            self._counts = self._counts or [IdCounts() for _ in range(ids.shape[-1])]
            for counts, group in zip(self._counts, ids.unbind(-1), strict=True):
                counts.add(group)

    def compute(self, codebook_size: int | None) -> dict[str, float]:
        """Return the means, and for each group G `codebook_used_G` (codewords) and `codebook_perplexity_G`, by name.

        The result is empty if there are no samples. All ranks must call this together, and all get the same result.

        Args:
            codebook_size: codebook size of the quantizer; None if the tokenizer is continuous.
        """
        for counts in self._counts:
            counts.consolidate()
        return combine_on_rank_0(self, lambda ranks: _combine(ranks, codebook_size))


def sample_metrics(
    reconstruction: Tensor, original: Tensor, losses: nn.ModuleDict | None = None, groups: ChannelGroups = RGB
) -> dict[str, Tensor]:
    """Compute `l1`, `mse`, `psnr` and the losses of the recipe; for other channels than RGB also `psnr_GROUP`.

    Pixels of photos are rounded to 8 bits for the PSNR, other channels are not.

    The PSNR of a clip is the mean PSNR of its frames. A loss has one value per batch, which every sample of the batch gets:
    the mean over samples weights each batch by its size.

    Args:
        reconstruction: (B, C, H, W) or (B, C, T, H, W) in [-1, 1].
        original: pixels of the same shape.
        losses: modules by name, in evaluation mode.
        groups: groups of channels of the pixels.

    Returns:
        (B,) float64 values by name.
    """
    reconstruction, original = reconstruction.float(), original.float()
    error = reconstruction - original
    values = {
        "l1": error.abs().flatten(1).mean(1),
        "mse": error.square().flatten(1).mean(1),
    }
    parts = {"psnr": slice(None)} | {
        f"psnr_{name}": part for name, part in group_slices(groups).items() if groups != RGB
    }
    x, y = measured_values(original, groups), measured_values(reconstruction, groups)
    values |= {name: mean_over_frames(psnr, x[:, part], y[:, part]) for name, part in parts.items()}
    for name, value in compute_losses(losses or nn.ModuleDict(), reconstruction, original, groups).items():
        values[name] = value.expand(len(original))
    return {name: value.double() for name, value in values.items()}


def _combine(ranks: Sequence[ValidationMetrics], codebook_size: int | None) -> dict[str, float]:
    """Return the metrics over all samples of all ranks, see `ValidationMetrics.compute`."""
    ranks = [metrics for metrics in ranks if metrics._samples]
    if not ranks:
        return {}
    samples = sum(rank._samples for rank in ranks)
    results = {name: sum(rank._sums[name] for rank in ranks) / samples for name in ranks[0]._sums}
    if codebook_size is not None:
        for group in range(len(ranks[0]._counts)):
            counts = IdCounts()
            for rank in ranks:
                counts.merge(rank._counts[group])
            usage = counts.summarize(codebook_size)
            results[f"codebook_used_{group}"] = float(usage.used)
            results[f"codebook_perplexity_{group}"] = usage.perplexity
    return results
