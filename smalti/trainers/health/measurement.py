"""What is measured on the samples of a validation, in addition to the metrics."""

from __future__ import annotations

from torch import Tensor

from smalti.trainers.health.baselines import Baselines
from smalti.trainers.health.code_usage import CodeUsage
from smalti.trainers.health.colors import Colors
from smalti.trainers.health.record import HealthRecord, TrainingRecord
from smalti.types import Batch


class Measurement:
    """Accumulates the baselines, colors and codes of validation samples.

    Args:
        baselines: the baselines to measure; None for none.
        codes: usage of the codes, which hooks on the bottleneck update.
    """

    def __init__(self, baselines: Baselines | None, codes: list[CodeUsage]) -> None:
        self._baselines = baselines
        self._psnr: dict[str, dict[str, list[float]]] = {"images": {}, "clips": {}}
        self.colors = Colors()
        self.codes = codes

    def update(self, batch: Batch, reconstruction: Tensor) -> None:
        """Add a batch.

        Args:
            batch: images or clips.
            reconstruction: reconstructions of `batch.pixels`, of the same shape.
        """
        self.colors.update(batch.pixels, reconstruction)
        if self._baselines is None:
            return
        sums = self._psnr["clips" if batch.pixels.ndim == 5 else "images"]
        for name, values in self._baselines.measure(batch.pixels, batch.names).items():
            total, count = sums.get(name, (0.0, 0.0))
            sums[name] = [total + sum(values), count + len(values)]

    def to_cpu(self) -> Measurement:
        """Return what other processes need."""
        copy = Measurement(None, [usage.to_cpu() for usage in self.codes])
        copy._psnr, copy.colors = self._psnr, self.colors
        return copy

    def merge(self, other: Measurement) -> None:
        """Add the samples of another process."""
        self.colors.merge(other.colors)
        for usage, added in zip(self.codes, other.codes, strict=True):
            usage.merge(added)
        for kind, sums in other._psnr.items():
            for name, (total, count) in sums.items():
                own_total, own_count = self._psnr[kind].get(name, (0.0, 0.0))
                self._psnr[kind][name] = [own_total + total, own_count + count]

    def baselines(self) -> dict[str, float]:
        """Return the mean PSNR of each baseline over all samples, by its name."""
        names = dict.fromkeys(name for sums in self._psnr.values() for name in sums)
        totals = {name: [sums[name] for sums in self._psnr.values() if name in sums] for name in names}
        return {name: sum(t for t, _ in parts) / sum(n for _, n in parts) for name, parts in totals.items()}

    def values(self) -> dict[str, float]:
        """Return the values to log: the mean PSNR of each baseline, and per kind if there are images and clips."""
        values = {f"psnr_{name}": value for name, value in self.baselines().items()}
        if all(self._psnr.values()):
            for kind, sums in self._psnr.items():
                values |= {f"psnr_{name}_{kind}": total / count for name, (total, count) in sums.items()}
        return values

    def to_record(self, step: int | None, psnr: float, training: TrainingRecord | None) -> HealthRecord:
        """Return the record for the checks."""
        return HealthRecord(step, psnr, self.baselines(), self.codes, self.colors, training, self.colors.samples)
