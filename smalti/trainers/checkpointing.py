"""Saving of training checkpoints."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from smalti.errors import DivergedError
from smalti.trainers.module import TokenizerTraining
from smalti.types import Batch

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Saves checkpoints at regular steps, and when training ends: at the last step, after Ctrl-C, or after a NaN.

    `last.ckpt` links to the newest checkpoint. Resume from it with `--ckpt_path`. After Ctrl-C, all ranks finish the
    current step with its gradient accumulation, then save and stop; several ranks may finish one more step, because they
    agree once per step. A run that is resumed from this checkpoint equals an uninterrupted one. A second Ctrl-C stops
    immediately.

    Args:
        every_n_train_steps: optimizer steps between checkpoints.
        save_top_k: 1 to keep the newest checkpoint only; -1 to keep all checkpoints.
        dirpath: folder for the checkpoints; None: `checkpoints` in the folder of the run.
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
        self._previous_handler: Any = None
        self._is_global_zero = False
        self._first_step: int | None = None
        self._module: TokenizerTraining | None = None

    @property
    def state_key(self) -> str:
        """The name of the state in checkpoints. Lightning's contains the arguments, and a resumed run may change them."""
        return type(self).__qualname__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore which checkpoints may be replaced, if they are in the folder of this run.

        The folder may have another path than before: relative or absolute, or moved.
        """
        folder = Path(self.dirpath or "")
        paths = {
            name: str(file) if state_dict.get(name) and (file := folder / Path(state_dict[name]).name).is_file() else ""
            for name in ("best_model_path", "kth_best_model_path")
        }
        # The state that a checkpoint contains was saved before the link to this checkpoint.
        last = folder / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
        paths["last_model_path"] = str(last) if paths["best_model_path"] and last.is_file() else ""
        super().load_state_dict({**state_dict, **paths, "dirpath": self.dirpath})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the handler of Ctrl-C."""
        super().on_train_start(trainer, pl_module)
        self._first_step = trainer.global_step
        self._module = cast(TokenizerTraining, pl_module)
        self._is_global_zero = trainer.is_global_zero
        # Python can only install handlers in the main thread. A handler that was not installed from Python (None) could not
        # be restored, and is left in place.
        main_thread = threading.current_thread() is threading.main_thread()
        if main_thread and signal.getsignal(signal.SIGINT) is not None:
            self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _signal: int, _frame: Any) -> None:
        """Request a stop after the current step. The second interrupt stops immediately."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._module is not None:
            self._module.request_stop()
        if self._is_global_zero:
            log.info("Stopping after this step and saving; press Ctrl-C again to stop immediately.")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the previous handler of Ctrl-C."""
        super().teardown(trainer, pl_module, stage)
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Stop between two optimizer steps, on all ranks, if any rank was interrupted."""
        if batch_idx % trainer.accumulate_grad_batches == 0 and cast(TokenizerTraining, pl_module).stops:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save at the regular steps and at the last step. Saving before the epoch ends makes resuming exact."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            self._save_now(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the steps since the last checkpoint."""
        self._save_now(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save if all ranks stop together. A single rank would wait for the others forever."""
        together = isinstance(exception, (KeyboardInterrupt, DivergedError)) or trainer.world_size == 1
        if together and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_now(trainer)

    def _save_now(self, trainer: pl.Trainer) -> None:
        """Save the current step, unless it is saved already or no step has finished."""
        if getattr(trainer, "fast_dev_run", 0) or self._first_step is None:
            return
        if trainer.global_step in (self._first_step, self._last_global_step_saved):
            return
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)
        if trainer.is_global_zero:
            log.info("Saved %s.", self.best_model_path or self.last_model_path)
