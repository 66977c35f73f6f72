"""Logging of training speed."""

from __future__ import annotations

from lightning.pytorch.callbacks import ThroughputMonitor

from smalti.types import Batch


class Throughput(ThroughputMonitor):
    """Logs batches and samples per second.

    Args:
        window_size: number of batches to average over.
    """

    def __init__(self, window_size: int = 20) -> None:
        super().__init__(batch_size_fn=_batch_size, window_size=window_size)


def _batch_size(batch: Batch) -> int:
    return len(batch.pixels)
