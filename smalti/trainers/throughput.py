"""What happens beside the steps: averaging, checkpoints, throughput."""

from __future__ import annotations

from lightning.pytorch.callbacks import ThroughputMonitor

from smalti.types import Batch


class Throughput(ThroughputMonitor):
    """Lightning's monitor of batches and samples a second, told how to count samples.

    Args:
        window_size: batches that are averaged over.
    """

    def __init__(self, window_size: int = 20) -> None:
        super().__init__(batch_size_fn=_batch_size, window_size=window_size)


def _batch_size(batch: Batch) -> int:
    return len(batch.pixels)
