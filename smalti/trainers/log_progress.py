"""Training progress as plain lines of text, for logs and pipes."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar


class LogProgress(ProgressBar):
    """Prints training progress as lines of text: step, speed, time left and metrics.

    A progress bar redraws its line in place, which fills a log file with copies of it. This callback prints a line after
    the first step, then at most every `seconds`, after each validation and at the end, and at most one line per step.

    Args:
        seconds: minimum time between two lines, in seconds.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._enabled = True
        self._start: tuple[float, int] | None = None
        self._printed: tuple[float, int] | None = None

    def disable(self) -> None:
        """Print nothing. Lightning calls this on all ranks except rank 0."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Print a line for the previous step, if enough time has passed since the last line."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, trainer.global_step)
        elif self._printed is None or now - self._printed[0] >= self.seconds:
            self._print(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line with the metrics of the validation."""
        self._print(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line for the last step."""
        self._print(trainer, pl_module)

    def _print(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        if not self._enabled or self._start is None or (self._printed is not None and self._printed[1] == step):
            return
        now = time.monotonic()
        self._printed = (now, step)
        metrics = self.get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        total = "" if trainer.max_steps < 0 else f"/{trainer.max_steps}"
        parts = [f"step {step}{total}", *self._speed(trainer, now)]
        print(", ".join([*parts, *_format_metrics(metrics)]), flush=True)

    def _speed(self, trainer: pl.Trainer, now: float) -> list[str]:
        """Return the steps per second so far and, if the number of steps is known, the time left."""
        assert self._start is not None
        seconds, steps = now - self._start[0], trainer.global_step - self._start[1]
        if seconds <= 0 or steps <= 0:
            return []
        speed = steps / seconds
        left = round((trainer.max_steps - trainer.global_step) / speed)
        return [f"{speed:.2f} steps/s", *([f"{timedelta(seconds=left)} left"] if left > 0 else [])]


def _format_metrics(metrics: dict[str, Any]) -> list[str]:
    """Return each metric with its name; baselines of the PSNR follow it: "val/psnr 24.1 (linear codec 23.2)"."""
    prefix = "val/psnr_"
    has_psnr = "val/psnr" in metrics
    baselines = {name: value for name, value in metrics.items() if has_psnr and name.startswith(prefix)}
    parts = []
    for name, value in metrics.items():
        if name in baselines:
            continue
        text = f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        if name == "val/psnr" and baselines:
            listed = (f"{key.removeprefix(prefix).replace('_', ' ')} {value:.4g}" for key, value in baselines.items())
            text += f" ({', '.join(listed)})"
        parts.append(text)
    return parts
