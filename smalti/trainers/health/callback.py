"""The callback that compares a run with baselines at each validation and says when something goes wrong."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from smalti.channel_groups import RGB
from smalti.distributed import combine_on_rank_0, compute_on_rank_0
from smalti.errors import SmaltiError
from smalti.eval.linear_codec import CODEC_FILE, LinearCodec
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.gan import guessing_loss
from smalti.trainers.health.baselines import Baselines, mean_color
from smalti.trainers.health.checks import YOUNG, CheckResult, run_checks
from smalti.trainers.health.code_usage import count_code_usage
from smalti.trainers.health.loss_gradients import measure_gradient_shares
from smalti.trainers.health.measurement import Measurement
from smalti.trainers.health.record import HealthRecord, HistoryPoint, TrainingRecord
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.sharding import is_sharded
from smalti.trainers.training_batches import load_training_batches
from smalti.types import Batch

log = logging.getLogger(__name__)


class Health(Callback):
    """Compares each validation with baselines, and says in one sentence when training goes wrong.

    Before the first step, a linear codec with the nominal bits of the tokenizer is fitted to training data, in seconds, and
    saved to `linear_codec.safetensors` in the folder of the run. Every validation logs the PSNR on the same samples of

    - `val/psnr_mean_color`: the mean color of the training data. A tokenizer that has learned nothing has this PSNR.
    - `val/psnr_bicubic`: bicubic downsampling to pixels with the nominal bits of the tokenizer, and upsampling.
    - `val/psnr_linear_codec`: principal components of patches and scalar quantizers, at the same nominal bits; for a
      continuous tokenizer, as many components as it has channels.

    If a validation contains images and clips, each value is also logged per kind, as `val/psnr_linear_codec_images`.

    A tokenizer for other channels than red, green and blue is neither compared nor checked.

    A problem is logged once, when two validations in a row or the last one of the run have it, and once more when it is
    over. `smalti doctor` runs the same checks on a checkpoint, see `smalti.trainers.health.checks`.

    Args:
        samples: number of training images, over all ranks, to which the linear codec is fitted, or a quarter as many clips,
            which take longer to read; 0: no linear codec.
        diagnose: whether to look for problems.

    Raises:
        SmaltiError: `samples` is negative.
    """

    def __init__(self, samples: int = 128, diagnose: bool = True) -> None:
        if samples < 0:
            raise SmaltiError(f"health.samples is {samples}: give the number of training samples, or 0 for none.")
        self.samples = samples
        self.diagnose = diagnose
        self.training = TrainingRecord()
        self.problems: dict[str, int] = {}
        """How many validations in a row had each problem, by the name of the check."""
        self.baselines: Baselines | None = None
        self.record: HealthRecord | None = None
        """The last validation; None before the first one, and on ranks other than 0."""
        self._reported: set[str] = set()
        self._codec_is_saved = True
        self._folder: Path | None = None
        self._measurement: Measurement | None = None
        self._stack = ExitStack()
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._measure_gradients_at = YOUNG

    # State

    @property
    def state_key(self) -> str:
        """The name of the state in checkpoints, whatever the arguments are."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Return the record of the run, for resuming and for `smalti doctor`."""
        color = None if self.baselines is None else list(self.baselines.mean_color)
        return {
            "training": self.training.to_dict(),
            "problems": dict(self.problems),
            "reported": sorted(self._reported),
            "mean_color": color,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record of the run."""
        self.training = TrainingRecord.from_dict(state_dict["training"])
        self.problems = dict(state_dict["problems"])
        self._reported = set(state_dict["reported"])

    # Baselines

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit the linear codec, or load that of the run that is continued."""
        module = cast(TokenizerTraining, pl_module)
        self._sums, self._steps = {}, 0
        log_dir = trainer.log_dir  # read on all ranks, because Lightning broadcasts it
        self._folder = Path(log_dir) if trainer.loggers and log_dir is not None else None
        if not trainer.enable_validation or module.tokenizer.channels != RGB:
            self.baselines = None  # they are defined for 8-bit colors
            return
        batches = load_training_batches(trainer, max(1, self.samples), clips=-(-max(1, self.samples) // 4))
        color = mean_color(batches, trainer.strategy.root_device)
        codec, self._codec_is_saved = self._find_codec(trainer), True
        if codec is None and self.samples:
            codec = self._fit_codec(module.tokenizer, list(batches), trainer.is_global_zero)
            self._codec_is_saved = codec is None
        self.baselines = Baselines(module.tokenizer, color, codec)

    def _find_codec(self, trainer: pl.Trainer) -> LinearCodec | None:
        """Return the linear codec of the run that is continued; None for a new run."""
        if not self.samples or trainer.ckpt_path is None or self._folder is None:
            return None
        file = self._folder / CODEC_FILE
        return compute_on_rank_0(lambda: LinearCodec.load(file) if file.is_file() else None)

    @staticmethod
    def _fit_codec(tokenizer: Tokenizer, batches: list[Tensor], is_main: bool) -> LinearCodec | None:
        """Fit a linear codec at the bits of a tokenizer. If this is not possible, say so, and train without it."""
        try:
            return fit_linear_codec(tokenizer, batches)
        except SmaltiError as error:
            if is_main:
                log.warning("The run is not compared with a linear codec. %s", error)
            return None

    # Training

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Measure the gradients of the losses once between two validations."""
        module = cast(TokenizerTraining, pl_module)
        step = trainer.global_step
        if not self.diagnose or self.baselines is None or step < self._measure_gradients_at or is_sharded(module):
            return
        self._measure_gradients_at = trainer.max_steps + 1 if trainer.max_steps > 0 else 2**62
        self.training.gradient_shares = measure_gradient_shares(trainer, module, batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add up the losses of the step, and save the linear codec after the first one, when the run has a folder."""
        module = cast(TokenizerTraining, pl_module)
        if not self._codec_is_saved and trainer.global_step > 0:
            self._save_codec(trainer)
        if module.step_result is None or trainer.fit_loop._should_accumulate():
            return
        for name, value in module.step_result.means.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._steps += 1
        if module.gan is not None and trainer.global_step > module.gan.start:
            self.training.gan_steps += 1
        group = trainer.optimizers[0].param_groups[0]
        self.training.learning_rate = rate = float(group["lr"])
        self.training.peak_learning_rate = max(rate, self.training.peak_learning_rate or 0.0)
        self.training.warmed_up |= rate >= 0.5 * float(group.get("initial_lr", rate))

    def _save_codec(self, trainer: pl.Trainer) -> None:
        self._codec_is_saved = True
        if self._folder is not None and trainer.is_global_zero and self.baselines is not None and self.baselines.codec:
            self.baselines.codec.save(self._folder / CODEC_FILE)

    # Validation

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count what the bottleneck computes from now on."""
        if self.baselines is None or trainer.sanity_checking:
            return
        tokenizer = cast(TokenizerTraining, pl_module).tokenizer
        codes = self._stack.enter_context(count_code_usage(tokenizer.bottleneck))
        self._measurement = Measurement(self.baselines, codes)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure baselines and colors on the samples of a batch.

        Args:
            trainer: the trainer.
            pl_module: the training module.
            outputs: reconstructions of `batch.pixels`, of the same shape.
            batch: images or clips.
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        if self._measurement is not None:
            self._measurement.update(batch, outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Combine the measurements of all ranks, and log the baselines."""
        self._stack.close()
        if self._measurement is None:
            return
        values, measurement = combine_on_rank_0(self._measurement.to_cpu(), _combine)
        self._measurement = measurement if trainer.is_global_zero else None
        for name, value in values.items():
            pl_module.log(
                f"val/{name}", value, prog_bar=name.startswith("psnr_") and not name.endswith(("images", "clips"))
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the health of the run, on rank 0."""
        measurement, self._measurement = self._measurement, None
        self._measure_gradients_at = trainer.global_step
        psnr = trainer.callback_metrics.get("val/psnr")
        if measurement is None or psnr is None or self.baselines is None:
            return
        module = cast(TokenizerTraining, pl_module)
        self._update_training_record(trainer, module, float(psnr))
        self.record = measurement.to_record(trainer.global_step, float(psnr), self.training)
        if self.diagnose:
            self._report(trainer, run_checks(self.record))

    def _update_training_record(self, trainer: pl.Trainer, module: TokenizerTraining, psnr: float) -> None:
        training, step = self.training, trainer.global_step
        peak, rate = training.peak_learning_rate, training.learning_rate
        fraction = rate / peak if rate is not None and peak else 1.0
        if training.history and training.history[-1].step == step:
            training.history.pop()  # a run that was resumed at a validation repeats it
        training.history = [*training.history[-99:], HistoryPoint(step, psnr, fraction, training.gan_steps > 0)]
        if self._steps:
            training.losses = {name: total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        training.weights = dict(module.weights)
        training.max_steps = trainer.max_steps
        training.chance = None if module.gan is None else guessing_loss(module.gan.discriminator_loss_kind)

    def _report(self, trainer: pl.Trainer, results: list[CheckResult]) -> None:
        """Log problems that are new or over."""
        step = trainer.global_step
        if step < YOUNG or not self.training.warmed_up:
            return
        is_last = step == trainer.max_steps
        for result in results:
            self.problems[result.name] = self.problems.get(result.name, 0) + 1 if result.problem else 0
            if result.problem and result.name not in self._reported and (self.problems[result.name] >= 2 or is_last):
                self._reported.add(result.name)
                log.warning("Problem at step %d (%s): %s", step, result.name, result)
            elif not result.problem and not result.unchecked and result.name in self._reported:
                self._reported.discard(result.name)
                log.warning("Solved at step %d (%s): %s.", step, result.name, result.value)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks of a validation that was interrupted."""
        self._stack.close()
        self._measurement = None


def fit_linear_codec(tokenizer: Tokenizer, batches: list[Tensor]) -> LinearCodec:
    """Fit a linear codec at the nominal bits of a tokenizer, or with as many components as it has channels.

    Args:
        tokenizer: the tokenizer; of a joint one, the discrete branch counts.
        batches: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1] of this process. All must call this together.

    Raises:
        SmaltiError: there is no codec for this stride or this data.
    """
    stride = tokenizer.encoder.stride
    if tokenizer.discrete:
        return LinearCodec.fit(batches, stride, bits=tokenizer.quantizer.bits_per_position)
    return LinearCodec.fit(batches, stride, channels=tokenizer.bottleneck.out_dim)


def _combine(ranks: list[Measurement]) -> tuple[dict[str, float], Measurement | None]:
    """Return the means of the baselines over all ranks, and the measurement of all ranks."""
    total = ranks[0]
    for other in ranks[1:]:
        total.merge(other)
    return total.values(), total
