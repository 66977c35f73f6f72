"""Exponential moving average of the tokenizer's weights."""

from __future__ import annotations

import logging
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smalti.errors import SmaltiError
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.sharding import FSDP2Strategy, gather_shards, local_part, reshard

log = logging.getLogger(__name__)

_PREFIX = "tokenizer."


def warm_up_decay(decay: float, num_updates: int) -> float:
    """Return the decay of an update: `min(decay, (1 + n) / (10 + n))` after n earlier updates, and 0 for the first one.

    This is the warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=n)`, which latent diffusion's `LitEma` and
    diffusers' `EMAModel` share. Until the decay is reached, the average covers about n / 9 updates. Without the
    warm-up, the first weights would keep a share of decay^n: 61% after 5000 updates with 0.9999.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates)) if num_updates else 0.0


class _AveragedTokenizer(AveragedModel):
    """Average of the tokenizer inside a training module. It stays in float32 if the tokenizer is trained in bfloat16.

    Torch's class keeps the number of updates on the device and reads it in each update, for which the host waits.
    """

    def __init__(self, tokenizer: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(tokenizer)  # with the number of updates on the CPU
        self.module.to(device)
        self.decay = decay

    @property
    def num_updates(self) -> int:
        """Number of updates so far."""
        return int(self.n_averaged)

    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the weights of a training module."""
        self._move_to(cast(TokenizerTraining, model).tokenizer, warm_up_decay(self.decay, self.num_updates))
        self.n_averaged += 1

    def copy_weights(self, tokenizer: nn.Module) -> None:
        """Replace the average with current weights. This is not an update."""
        self._move_to(tokenizer, decay=0.0)

    @torch.no_grad()
    def _move_to(self, tokenizer: nn.Module, decay: float) -> None:
        averages: list[Tensor] = [local_part(p) for p in self.module.parameters()]
        current = [local_part(p).to(average) for average, p in zip(averages, tokenizer.parameters(), strict=True)]
        get_ema_multi_avg_fn(decay)(averages, current, 0)
        for average, buffer in zip(self.module.buffers(), tokenizer.buffers(), strict=True):
            average.copy_(buffer)


class TokenizerEMA(EMAWeightAveraging):
    """Exponential moving average of the tokenizer's weights, which validation and `smalti.load` use.

    Unlike Lightning's callback, it averages only the tokenizer and not the discriminator. Buffers are copied, not averaged.
    The decay is lower in the first updates, see `warm_up_decay`. Until averaging starts, the average is a copy of the live
    weights.

    Args:
        decay: decay of the average per update after its warm-up, in [0, 1].
        update_every_n_steps: optimizer steps between updates.
        update_starting_at_step: first optimizer step whose weights are averaged.

    Raises:
        SmaltiError: `decay` is not in [0, 1], or `update_every_n_steps` is less than 1.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1, update_starting_at_step: int = 0) -> None:
        if not 0 <= decay <= 1:
            raise SmaltiError(f"The decay of the weight average is {decay}: set ema.decay to a number from 0 to 1.")
        if update_every_n_steps < 1:
            raise SmaltiError(f"ema.update_every_n_steps is {update_every_n_steps}: use 1 to average all steps.")
        super().__init__(
            decay=decay, update_every_n_steps=update_every_n_steps, update_starting_at_step=update_starting_at_step
        )
        self._decay = decay
        self._swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Initialize the average with the current weights."""
        if stage == "fit":
            self.restart(trainer, cast(TokenizerTraining, pl_module))

    def restart(self, trainer: pl.Trainer, module: TokenizerTraining) -> None:
        """Discard the average and initialize it with the module's current weights."""
        self._average_model = _AveragedTokenizer(
            module.tokenizer, device=trainer.strategy.root_device, decay=self._decay
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shard the average if the weights are sharded. Copy live weights that rank 0 has sent to the other ranks."""
        average = cast(_AveragedTokenizer, self._average_model)
        if isinstance(trainer.strategy, FSDP2Strategy):
            trainer.strategy.shard(cast(Tokenizer, average.module))
        self.copy_before_start(cast(TokenizerTraining, pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after each optimizer step. Before averaging starts, copy the live weights."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.copy_before_start(cast(TokenizerTraining, pl_module))

    def copy_before_start(self, module: TokenizerTraining) -> None:
        """Replace the average with the module's current weights, unless averaging has started."""
        average = cast(_AveragedTokenizer, self._average_model)
        if not average.num_updates:
            average.copy_weights(module.tokenizer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the live weights: the last checkpoint, which is saved after this, contains them and the average."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the average into the module, as Lightning's callback does in `on_train_end`."""
        self._copy_average_to_current(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the live weights if validation was interrupted: a checkpoint that is saved now must contain them."""
        if self._swapped:
            self._swap_models(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as the tokenizer's weights, and all live weights as `current_model_state`, like Lightning."""
        if self._average_model is None:
            return
        state = gather_shards(self._average_model.state_dict())
        average = {_PREFIX + name.removeprefix("module."): v for name, v in state.items() if name.startswith("module.")}
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **average}
        checkpoint["averaging_state"] = {name: v for name, v in state.items() if not name.startswith("module.")}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the average and the live weights. Without an average, start it from the checkpoint's weights."""
        if self._average_model is None:
            return
        if "averaging_state" not in checkpoint:
            log.warning("The checkpoint contains no averaged weights: the average starts from its live weights.")
            self.restart(trainer, cast(TokenizerTraining, pl_module))
            return
        average = {
            "module." + name.removeprefix(_PREFIX): v
            for name, v in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        self._average_model.load_state_dict(average | checkpoint["averaging_state"])
        pl_module.load_state_dict(checkpoint["current_model_state"])
        self.copy_before_start(cast(TokenizerTraining, pl_module))  # earlier versions saved the initialization

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        tokenizer = cast(TokenizerTraining, pl_module).tokenizer
        reshard(tokenizer)
        super()._swap_models(tokenizer)  # pyright: ignore[reportArgumentType]
        self._swapped = not self._swapped

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        super()._copy_average_to_current(
            cast(TokenizerTraining, pl_module).tokenizer  # pyright: ignore[reportArgumentType]
        )
