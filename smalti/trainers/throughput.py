"""Logging of training speed."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from smalti.trainers.module import TokenizerTraining
from smalti.types import Batch


class Throughput(Callback):
    """Logs optimizer steps and samples per second, over all ranks, without the time of validation.

    The host waits for the device once per step, when `TokenizerTraining` reads the result of the step. Lightning's
    `ThroughputMonitor` waits once more, and multiplies the samples of rank 0 by the number of ranks.

    Args:
        window_size: number of steps to average over.
    """

    def __init__(self, window_size: int = 20) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=window_size + 1)
        self._step: int | None = None
        self._pause = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to measure."""
        self._steps.clear()
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log `train/steps_per_second` and `train/samples_per_second` after each optimizer step except the first."""
        module = cast(TokenizerTraining, pl_module)
        result = module.step_result
        if trainer.global_step == self._step or result is None:
            return
        self._step = trainer.global_step
        self._steps.append((time.perf_counter(), result.samples))
        seconds = self._steps[-1][0] - self._steps[0][0]
        if seconds > 0:
            samples = sum(samples for _, samples in list(self._steps)[1:])
            # Tensors on the CPU: Lightning would copy numbers to the device and wait for it.
            module.log("train/steps_per_second", torch.tensor((len(self._steps) - 1) / seconds))
            module.log("train/samples_per_second", torch.tensor(samples / seconds))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pause the measurement."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue the measurement as if validation had taken no time."""
        paused = time.perf_counter() - self._pause
        steps = [(end + paused, samples) for end, samples in self._steps]
        self._steps = deque(steps, maxlen=self._steps.maxlen)
