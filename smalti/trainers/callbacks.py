"""What happens beside the steps: averaging, checkpoints, throughput."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, ThroughputMonitor
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smalti.errors import DivergedError
from smalti.trainers.module import TokenizerTraining
from smalti.types import Batch

log = logging.getLogger(__name__)
_PREFIX = "tokenizer."


class _TokenizerAverage(AveragedModel):
    """An average of the tokenizer inside the training module that it is updated from."""

    def update_parameters(self, model: nn.Module) -> None:
        super().update_parameters(cast(TokenizerTraining, model).tokenizer)


class TokenizerEMA(EMAWeightAveraging):
    """Exponential moving average of the tokenizer's weights; validation sees it, and `smalti.load` takes it.

    Lightning's callback, but of the tokenizer alone: not of the discriminator, and buffers are copied, not averaged.

    Args:
        decay: a step.
        update_every_n_steps: optimizer steps between updates.
        update_starting_at_step: first step whose weights are averaged.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1, update_starting_at_step: int = 0) -> None:
        super().__init__(
            decay=decay, update_every_n_steps=update_every_n_steps, update_starting_at_step=update_starting_at_step
        )
        self._decay = decay
        self._swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the average from the weights as they are."""
        if stage == "fit":
            self.restart(trainer, cast(TokenizerTraining, pl_module))

    def restart(self, trainer: pl.Trainer, module: TokenizerTraining) -> None:
        """Forget the average, and start from the module's weights."""
        self._average_model = _TokenizerAverage(
            module.tokenizer,
            device=trainer.strategy.root_device,
            use_buffers=False,
            multi_avg_fn=get_ema_multi_avg_fn(self._decay),
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing yet: the last checkpoint is still to be written, with both the average and the live weights."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module, as Lightning promises."""
        self._copy_average_to_current(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the live weights back if validation was interrupted, so that a checkpoint of this moment is true."""
        if self._swapped:
            self._swap_models(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the average where the tokenizer's weights stand, and all live weights beside, as Lightning does."""
        if self._average_model is None:
            return
        state = self._average_model.state_dict()
        average = {_PREFIX + name.removeprefix("module."): v for name, v in state.items() if name.startswith("module.")}
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **average}
        checkpoint["averaging_state"] = {name: v for name, v in state.items() if not name.startswith("module.")}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take both back; a checkpoint of a run without averages starts the average from its weights."""
        if self._average_model is None:
            return
        if "averaging_state" not in checkpoint:
            log.warning("The checkpoint holds no averaged weights: the average starts from its live weights.")
            self.restart(trainer, cast(TokenizerTraining, pl_module))
            return
        average = {
            "module." + name.removeprefix(_PREFIX): v
            for name, v in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        self._average_model.load_state_dict(average | checkpoint["averaging_state"])
        pl_module.load_state_dict(checkpoint["current_model_state"])

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(cast(TokenizerTraining, pl_module).tokenizer)  # pyright: ignore[reportArgumentType]
        self._swapped = not self._swapped

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        super()._copy_average_to_current(
            cast(TokenizerTraining, pl_module).tokenizer  # pyright: ignore[reportArgumentType]
        )


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


class Throughput(ThroughputMonitor):
    """Lightning's monitor of batches and samples a second, told how to count samples.

    Args:
        window_size: batches that are averaged over.
    """

    def __init__(self, window_size: int = 20) -> None:
        super().__init__(batch_size_fn=_batch_size, window_size=window_size)


def _batch_size(batch: Batch) -> int:
    return len(batch.pixels)
