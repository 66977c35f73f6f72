"""What happens beside the steps: averaging, checkpoints, throughput."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smalti.trainers.checkpointing import log
from smalti.trainers.module import TokenizerTraining

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
