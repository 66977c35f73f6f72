"""Saving of training checkpoints: when, and which are kept."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from smalti.distributed import compute_on_rank_0, gather
from smalti.errors import SmaltiError
from smalti.files import PARTIAL_PREFIX, atomic_write
from smalti.trainers.checkpoint_files import CheckpointFiles, UnwritableCheckpointError, remove_partial_files
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.rank_errors import RAISED_TOGETHER
from smalti.trainers.stop_signals import Stopped, StopSignals
from smalti.types import Batch

log = logging.getLogger(__name__)

BEST = "best.json"
"""File next to the checkpoints with the name, the metric and the value of the best one."""


class Checkpoints(ModelCheckpoint):
    """Saves checkpoints at regular steps, and when training ends: at the last step, or when all ranks stop together.

    They stop together after a signal, a NaN, or an error of the training data on one rank.

    In the folder of the checkpoints, `last.ckpt` links to the newest one, and `best.ckpt` to the one with the best
    validation. Files are replaced atomically: if a checkpoint cannot be written, the ones before it stay.

    After Ctrl-C or SIGTERM on any rank, all ranks finish the current step with its gradient accumulation, then save and
    stop; several ranks may finish one more step, because they agree once per step. A run that is resumed from this
    checkpoint equals an uninterrupted one. A second Ctrl-C stops immediately, without saving.

    Args:
        every_n_train_steps: optimizer steps between checkpoints.
        save_top_k: 1 to keep the newest checkpoint, the best and the milestones; -1 to keep all checkpoints.
        dirpath: folder for the checkpoints; None: `checkpoints` in the folder of the run.
        milestones: optimizer steps between checkpoints that are kept forever; None for no milestones.
        monitor: validation metric of the best checkpoint. Nothing happens without validation. None to keep no best one.
        mode: "max" if a larger metric is better, "min" if a smaller one is.

    Raises:
        SmaltiError: `milestones` is not positive; after a validation without this metric; if a checkpoint cannot be
            written; if the ranks do not resume from the same step.
    """

    def __init__(
        self,
        every_n_train_steps: int = 1000,
        save_top_k: int = 1,
        dirpath: Path | None = None,
        milestones: int | None = None,
        monitor: str | None = "val/psnr",
        mode: Literal["min", "max"] = "max",
    ) -> None:
        if milestones is not None and milestones < 1:
            raise SmaltiError(f"milestones is {milestones}: give a number of steps, or null for no milestones.")
        super().__init__(
            dirpath=dirpath,
            filename="{step}",
            save_top_k=save_top_k,
            save_last="link",
            every_n_train_steps=every_n_train_steps,
        )
        self._milestones = milestones
        self._metric, self._metric_mode = monitor, mode  # not `self.monitor`, by which Lightning would select all
        self._best: dict[str, Any] | None = None
        self._signals: StopSignals | None = None
        self._first_step: int | None = None

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

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the trainer write and read checkpoints with `CheckpointFiles`, unless it was given another way."""
        super().setup(trainer, pl_module, stage)
        self._signals = None
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    # Stopping

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers. Lightning has just installed its own."""
        self._install_signals(trainer, cast(TokenizerTraining, pl_module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers, and read which checkpoint is the best.

        Raises:
            SmaltiError: the ranks are at different steps.
        """
        super().on_train_start(trainer, pl_module)
        self._first_step = trainer.global_step
        steps = gather(trainer.global_step)
        if len(set(steps)) > 1:
            raise SmaltiError(
                f"The ranks resume from the steps {', '.join(map(str, steps))}: pass the path of one checkpoint that all "
                "nodes can read."
            )
        self._install_signals(trainer, cast(TokenizerTraining, pl_module))
        self._best = compute_on_rank_0(self._prepare_folder)

    def _install_signals(self, trainer: pl.Trainer, module: TokenizerTraining) -> None:
        if self._signals is None:
            self._signals = StopSignals(trainer, module.request_stop)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Stop between two optimizer steps, on all ranks, if any rank has received a signal."""
        module = cast(TokenizerTraining, pl_module)
        if self._signals is not None and batch_idx % trainer.accumulate_grad_batches == 0 and module.stops:
            self._signals.stop()

    # Saving

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save at the regular steps, milestones and the last step. Saving before the epoch ends makes resuming exact."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._is_milestone(trainer.global_step) or trainer.global_step == trainer.max_steps:
            self._save_now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the current step if its validation is the best so far."""
        super().on_validation_end(trainer, pl_module)
        if self._metric is None or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if self._metric in metrics:
            self._update_best(trainer, self._metric, float(metrics[self._metric]))
        elif names := [name for name in metrics if name.startswith("val/")]:
            raise SmaltiError(
                f"checkpoint.monitor is {self._metric}, which the validation does not measure: choose one of "
                f"{', '.join(names)}, or null."
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the steps since the last checkpoint."""
        self._save_now(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save if all ranks stop together. A single rank would wait for the others forever."""
        if isinstance(exception, (KeyboardInterrupt, UnwritableCheckpointError)):
            return
        together = isinstance(exception, RAISED_TOGETHER) or trainer.world_size == 1
        if together and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_now(trainer)
        if isinstance(exception, Stopped) and self._signals is not None:
            self._signals.requeue()

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

    # What is kept

    def _prepare_folder(self) -> dict[str, Any] | None:
        """Remove unfinished files, and return the content of best.json if its checkpoint exists."""
        folder = Path(self.dirpath or "")
        remove_partial_files(folder)
        try:
            best = json.loads((folder / BEST).read_text(encoding="utf-8"))
            return best if best["metric"] == self._metric and (folder / best["checkpoint"]).is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no best checkpoint yet

    def _update_best(self, trainer: pl.Trainer, metric: str, value: float) -> None:
        """Save the current step, and let `best.ckpt` link to it, if the value is the best so far."""
        sign = 1 if self._metric_mode == "max" else -1
        previous = self._best
        if value != value or (previous is not None and sign * value <= sign * previous["value"]):
            return
        self._save_now(trainer)
        if self._last_global_step_saved != trainer.global_step or not self._last_checkpoint_saved:
            return  # nothing is saved without a new step, or with fast_dev_run
        file = Path(self._last_checkpoint_saved)
        self._best = {"checkpoint": file.name, "metric": metric, "value": value}
        if trainer.is_global_zero:
            with _unwritable(file.with_name(BEST)), atomic_write(file.with_name(BEST)) as partial:
                partial.write_text(json.dumps(self._best) + "\n", encoding="utf-8")
        self._link_checkpoint(trainer, str(file), str(file.with_name(f"best{self.FILE_EXTENSION}")))
        if previous is not None and self.save_top_k == 1:
            old = str(file.with_name(previous["checkpoint"]))
            if self._should_remove_checkpoint(trainer, old, str(file)):
                self._remove_checkpoint(trainer, old)

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        """Return whether a checkpoint is neither the newest, nor the best, nor a milestone."""
        name = Path(previous).name
        step = re.match(r"step=(\d+)", name)
        if (step and self._is_milestone(int(step[1]))) or (self._best and self._best["checkpoint"] == name):
            return False
        return super()._should_remove_checkpoint(trainer, previous, current)

    def _is_milestone(self, step: int) -> bool:
        return self._milestones is not None and step > 0 and step % self._milestones == 0

    @staticmethod
    def _link_checkpoint(trainer: pl.Trainer, filepath: str, linkpath: str) -> None:
        """Replace a link atomically. Lightning's function removes it first: a kill in between would lose it."""
        if trainer.is_global_zero and Path(filepath) != Path(linkpath):
            link = Path(linkpath)
            partial = link.with_name(f"{PARTIAL_PREFIX}{link.name}")
            with _unwritable(link):
                partial.unlink(missing_ok=True)
                partial.symlink_to(os.path.relpath(filepath, link.parent))
                partial.replace(link)
        trainer.strategy.barrier()


@contextmanager
def _unwritable(file: Path) -> Iterator[None]:
    """Turn an OSError into an error for users."""
    try:
        yield
    except OSError as error:
        raise UnwritableCheckpointError(
            f"{file} cannot be written ({error.strerror or error}): free disk space and check the permissions, then resume "
            "the run."
        ) from error
