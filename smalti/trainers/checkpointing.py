"""What happens beside the steps: averaging, checkpoints, throughput."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from smalti.errors import DivergedError
from smalti.types import Batch

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Lightning's checkpoints, and one more at every end: planned, interrupted or diverged. Nothing trained is lost.

    `last.ckpt` links to the newest. Resume with `--ckpt_path`. Ctrl-C ends the step that is under way and its accumulation,
    on all ranks, and then stops and saves, so that the run can go on exactly; a second one stops at once.

    Args:
        every_n_train_steps: steps between checkpoints.
        save_top_k: how many of the newest to keep.
        dirpath: where to; None: `checkpoints` in the run's folder.
    """

    def __init__(
        self,
        every_n_train_steps: int = 1000,
        save_top_k: int = 1,
        dirpath: Path | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{step}",
            save_top_k=save_top_k,
            save_last="link",
            every_n_train_steps=every_n_train_steps,
        )
        self._interrupted = False
        self._handler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear Ctrl-C, and wait with the answer until the step is done."""
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _signal: int, _frame: Any) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        log.info("Stopping and saving after this step; press Ctrl-C again to stop at once.")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        super().teardown(trainer, pl_module, stage)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Between two steps, stop where somebody asked for it; all ranks together."""
        if batch_idx % trainer.accumulate_grad_batches == 0 and trainer.strategy.reduce_boolean_decision(
            self._interrupted, all=False
        ):
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """As Lightning; the last planned step too, before the epoch is closed, so that the run can go on exactly there."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            self._save_now(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the last steps since the previous checkpoint brought."""
        self._save_now(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, where all processes stop together: one alone would wait for the others for ever."""
        together = isinstance(exception, (KeyboardInterrupt, DivergedError)) or trainer.world_size == 1
        if together and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_now(trainer)

    def _save_now(self, trainer: pl.Trainer) -> None:
        if getattr(trainer, "fast_dev_run", 0) or self._last_global_step_saved == trainer.global_step:
            return
        candidates = self._monitor_candidates(trainer)
        path = self.format_checkpoint_name(candidates)
        self._save_checkpoint(trainer, path)
        self._save_last_checkpoint(trainer, candidates)
        log.info("Saved %s.", path)
