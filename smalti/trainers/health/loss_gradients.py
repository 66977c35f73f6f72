"""Which loss drives the training: the share of each weighted loss in the gradients of a batch.

Values of losses cannot be compared: an entropy at its maximum is large and has no gradient.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn

from smalti.trainers.module import TokenizerTraining
from smalti.trainers.nan_guard import BufferBackup
from smalti.types import Batch

PIXEL_LOSSES = ("l1", "mse")
PIXELS = "pixel losses"
"""The losses that compare pixels count as one. Near zero error, the gradient of `mse` vanishes beside that of `l1`."""


def measure_gradient_shares(trainer: pl.Trainer, module: TokenizerTraining, batch: Batch) -> dict[str, float]:
    """Return the share of each weighted loss of the tokenizer in the sum of the gradient norms, in [0, 1], by name.

    Losses of pixels are compared by their gradients at the reconstruction, losses of the bottleneck by their gradients at
    its input, where they meet the gradient of all losses of pixels. The batch has no effect on the run: random numbers that
    callbacks draw before a step are not those of the step, and buffers are restored. All ranks must call this together.

    Args:
        trainer: the trainer.
        module: the training module, in training mode, with weights that are not sharded.
        batch: training batch of this process.
    """
    backup = BufferBackup([module])
    stage, trainer.state.stage = trainer.state.stage, RunningStage.SANITY_CHECKING
    lecam = None if module.gan is None else module.gan.lecam
    if lecam is not None:
        lecam.eval()
    captured: list[Tensor] = []
    reconstructions: list[Tensor] = []

    def keep_input(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        captured.append(inputs[0])

    def keep_output(_: nn.Module, __: Any, output: Tensor) -> None:
        reconstructions.append(output)

    handles = [
        module.tokenizer.bottleneck.register_forward_pre_hook(keep_input),
        module.tokenizer.decoder.register_forward_hook(keep_output),
    ]
    try:
        with trainer.precision_plugin.train_step_context():
            uses_gan = module.gan is not None and trainer.global_step >= module.gan.start
            losses, branch = module.compute_losses(module.tokenizer, batch.pixels, with_gan=uses_gan)
            return _shares(module, losses, branch, captured[0], reconstructions[0])
    finally:
        for handle in handles:
            handle.remove()
        trainer.state.stage = stage
        backup.restore()
        if lecam is not None:
            lecam.train()


def _shares(
    module: TokenizerTraining, losses: dict[str, Tensor], branch: str | None, h: Tensor, reconstruction: Tensor
) -> dict[str, float]:
    """Return the shares of the weighted losses, given the input of the bottleneck and the output of the decoder."""
    weights = {name: weight for name, weight in module._branch_weights(branch).items() if weight}
    of_latents = (*module.loss_names.bottleneck, *module.loss_names.latent)
    bottleneck = {name for name in weights if name in of_latents}
    discriminator = {"discriminator", "lecam"}
    of_pixels = {name: weight for name, weight in weights.items() if name not in bottleneck | discriminator}
    gradients: dict[str, Tensor] = {}
    for name, weight in of_pixels.items():
        if losses[name].requires_grad:
            group = PIXELS if name in PIXEL_LOSSES else name
            (gradient,) = torch.autograd.grad(weight * losses[name], reconstruction, retain_graph=True)
            gradients[group] = gradients[group] + gradient if group in gradients else gradient
    shares = _normalize({name: float(gradient.float().norm()) for name, gradient in gradients.items()})
    if not bottleneck or not gradients or not h.requires_grad:
        return shares
    total = sum(gradients.values())
    assert isinstance(total, Tensor)
    (through_decoder,) = torch.autograd.grad(reconstruction, h, total, retain_graph=True)
    norms = {PIXELS: float(through_decoder.float().norm())}
    for name in bottleneck:
        if losses[name].requires_grad:
            (gradient,) = torch.autograd.grad(weights[name] * losses[name], h, retain_graph=True, allow_unused=True)
            norms[name] = 0.0 if gradient is None else float(gradient.float().norm())
    at_latents = _normalize(norms)
    return shares | {name: at_latents[name] for name in bottleneck if name in at_latents}


def _normalize(norms: dict[str, float]) -> dict[str, float]:
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else {}
