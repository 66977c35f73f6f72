"""Exponential moving average of the tokenizer's weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smalti.trainers.module import TokenizerTraining

log = logging.getLogger(__name__)

_PREFIX = "tokenizer."


class _AveragedTokenizer(AveragedModel):
    """Average of the tokenizer inside a training module. It stays in float32 if the tokenizer is trained in bfloat16."""

    def update_parameters(self, model: nn.Module) -> None:
        super().update_parameters(_InDtypeOf(self.module, cast(TokenizerTraining, model).tokenizer))


class _InDtypeOf(nn.Module):
    """Presents the parameters of a module in the data types of the parameters of an average of it."""

    def __init__(self, average: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self._averages, self._module = [average], [module]  # lists, because nothing is to be registered

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        pairs = zip(self._averages[0].parameters(recurse), self._module[0].parameters(recurse), strict=True)
        return (cast(nn.Parameter, current.to(average.dtype)) for average, current in pairs)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return self._module[0].buffers(recurse)


class TokenizerEMA(EMAWeightAveraging):
    """Exponential moving average of the tokenizer's weights, which validation and `smalti.load` use.

    Unlike Lightning's callback, it averages only the tokenizer and not the discriminator. Buffers are copied, not averaged.

    Args:
        decay: decay of the average per update.
        update_every_n_steps: optimizer steps between updates.
        update_starting_at_step: first optimizer step whose weights are averaged.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1, update_starting_at_step: int = 0) -> None:
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
            module.tokenizer,
            device=trainer.strategy.root_device,
            use_buffers=False,
            multi_avg_fn=get_ema_multi_avg_fn(self._decay),
        )

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
        state = self._average_model.state_dict()
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

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(cast(TokenizerTraining, pl_module).tokenizer)  # pyright: ignore[reportArgumentType]
        self._swapped = not self._swapped

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        super()._copy_average_to_current(
            cast(TokenizerTraining, pl_module).tokenizer  # pyright: ignore[reportArgumentType]
        )
