"""Starting a training run as a linear codec instead of with random weights."""

from __future__ import annotations

import logging
import time
from typing import Literal, cast, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from smalti.distributed import broadcast_from_rank_0, sum_over_ranks
from smalti.errors import SmaltiError
from smalti.eval.functional import mean_over_frames, psnr
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.bottlenecks import Projected
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer
from smalti.tokenizers.linear_start.group_norm_layout import MIN_CHANNELS
from smalti.tokenizers.linear_start.pyramid import gather_positions
from smalti.tokenizers.linear_start.start import StartReport, start_as_linear_codec
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.ema import TokenizerEMA
from smalti.trainers.health import fit_linear_codec
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.sharding import whole_weights
from smalti.trainers.training_batches import TrainingBatches, load_training_batches
from smalti.trainers.warm_start import WarmStart

log = logging.getLogger(__name__)

StartMethod = Literal["random", "linear", "latents"]
"""How the weights of a new run are initialized."""

_POOR_FIT = 0.5
"""Unexplained share of the variance of a layer's targets from which on the log names the layer."""

_POSITIONS = 16384
"""Latent positions per process to which projections are fitted."""

_MAX_PIXELS = 2**22
"""Maximum number of pixels per process from which the weights are fitted: memory grows with it."""


class Start(Callback):
    """Initializes the tokenizer of a new run.

    The method "linear" fits a linear codec to training data before the first step: the encoder computes principal
    components of patches, the bottleneck codes them, and the decoder reconstructs the pixels by least squares
    (`smalti.tokenizers.linear_start`). Architectures do not change. Norms and activation functions make the fit
    approximate. The log compares the tokenizer before the first step with the linear codec itself.

    All ranks fit together, each to its own batches. A resumed run uses the weights of its checkpoint, and a run with
    `warm_start.path` those of another one.

    Args:
        method: "random": the weights of the recipe's networks, unchanged. "linear": a linear codec. "latents": the
            projections around a quantizer (`Projected`) are fitted to the latents of the encoder, which is trained already
            (`smalti.tokenizers.pretrained`).
        samples: number of training samples of each kind (images, clips) to fit to, over all ranks.

    Raises:
        SmaltiError: the method is unknown, or `samples` is below 1.
    """

    def __init__(self, method: StartMethod = "random", samples: int = 256) -> None:
        if method not in get_args(StartMethod):
            raise SmaltiError(f"start.method is '{method}': use {' or '.join(get_args(StartMethod))}.")
        if samples < 1:
            raise SmaltiError(f"start.samples is {samples}: use at least 1, such as 256.")
        self.method = method
        self.samples = samples

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit the tokenizer, unless the run is resumed.

        Raises:
            SmaltiError: the networks or the bottleneck have no such start.
        """
        if self.method == "random" or trainer.ckpt_path is not None:
            return
        module = cast(TokenizerTraining, pl_module)
        callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        if any(isinstance(callback, WarmStart) and callback.path is not None for callback in callbacks):
            log.info("The run starts from the weights of warm_start.path, and start.method linear is not used.")
            return
        begin = time.monotonic()
        batches = _limit(load_training_batches(trainer, self.samples))
        if trainer.is_global_zero:
            _warn_of_straight_through_gradients(module.tokenizer)
        with isolate_rng(), whole_weights(module.tokenizer) as tokenizer:
            if self.method == "latents":
                self._fit_projections(trainer, tokenizer, batches, begin)
            else:
                report = start_as_linear_codec(tokenizer, batches)
                for tensor in tokenizer.state_dict().values():
                    broadcast_from_rank_0(tensor)
                self._measure(trainer, tokenizer, batches, report, begin)
        for callback in callbacks:
            if isinstance(callback, TokenizerEMA):
                callback.copy_before_start(module)

    def _fit_projections(self, trainer: pl.Trainer, tokenizer: Tokenizer, batches: list[Tensor], begin: float) -> None:
        """Fit the projections of the bottleneck to the latents of the training data, and log the quality.

        Raises:
            SmaltiError: the bottleneck has no projections.
        """
        projected = [module for module in tokenizer.bottleneck.modules() if isinstance(module, Projected)]
        if not projected:
            raise SmaltiError(
                f"start.method latents fits projections around a quantizer, but {type(tokenizer.bottleneck).__name__} "
                "has none: use a quantizer as the bottleneck of class_path pretrained, or start.method random."
            )
        training = tokenizer.training
        tokenizer.eval()
        with torch.no_grad():
            grids = [grid for batch in batches for grid in tokenizer.encoder(_as_clip(tokenizer, batch))]
            latents = gather_positions([grid.float() for grid in grids], _POSITIONS)
            for bottleneck in projected:
                bottleneck.start_from_latents(latents)
                for tensor in bottleneck.state_dict().values():
                    broadcast_from_rank_0(tensor)
            started = _mean_psnr(batches, [tokenizer(batch)[0] for batch in batches])
        tokenizer.train(training)
        for logger in trainer.loggers:
            logger.log_metrics({"start/psnr": started}, step=0)
        if trainer.is_global_zero:
            seconds = time.monotonic() - begin
            log.info("Fitted the projections to latents in %.0f s: PSNR %.2f dB on training samples.", seconds, started)

    def _measure(
        self, trainer: pl.Trainer, tokenizer: Tokenizer, batches: list[Tensor], report: StartReport, begin: float
    ) -> None:
        """Log the quality of the tokenizer on training data, next to that of the linear codec."""
        codec = fit_linear_codec(tokenizer, batches)
        training = tokenizer.training
        tokenizer.eval()
        with torch.no_grad():
            started = _mean_psnr(batches, [tokenizer(batch)[0] for batch in batches])
        tokenizer.train(training)
        linear = _mean_psnr(batches, [codec.reconstruct(batch) for batch in batches])
        for logger in trainer.loggers:
            logger.log_metrics({"start/psnr": started, "start/psnr_linear_codec": linear}, step=0)
        if not trainer.is_global_zero:
            return
        log.info(
            "Started as a linear codec in %.0f s: PSNR %.2f dB on training samples; the linear codec itself has %.2f dB.",
            time.monotonic() - begin,
            started,
            linear,
        )
        poor = {name: error for name, error in report.errors.items() if "conv_out" in name and error > _POOR_FIT}
        for name, error in poor.items():
            log.info("%s can only be fitted approximately: %.0f%% of its variance is missing.", name, 100 * error)
        norms = [module for module in tokenizer.modules() if isinstance(module, nn.GroupNorm)]
        if poor and any(norm.num_channels < MIN_CHANNELS * norm.num_groups for norm in norms):
            log.info(
                "Group norms with fewer than %d channels per group remove brightness and contrast: use fewer groups, more "
                "channels, or no norms (groups: null).",
                MIN_CHANNELS,
            )


def _warn_of_straight_through_gradients(tokenizer: Tokenizer) -> None:
    """Warn if a quantizer of signs trains what computes the signs with gradients that move all thresholds."""
    trained = any(p.requires_grad for part in (tokenizer.encoder, tokenizer.bottleneck) for p in part.parameters())
    for quantizer in tokenizer.bottleneck.modules():
        if trained and isinstance(quantizer, SignQuantizer) and quantizer.gradient == "straight_through":
            log.warning(
                "%s trains with straight-through gradients, which can destroy this start in a few steps: set the "
                "bottleneck's gradient to clipped, or freeze encoder and bottleneck (model.frozen).",
                type(quantizer).__name__,
            )


def _as_clip(tokenizer: Tokenizer, batch: Tensor) -> Tensor:
    """Return pixels as clips (B, 3, T, H, W) of a size that the encoder accepts, without what exceeds it."""
    clip = batch if batch.ndim == 5 else batch.unsqueeze(2)
    time, height, width = tokenizer.encoder.stride
    frames = 1 + (clip.shape[2] - 1) // time * time
    return clip[:, :, :frames, : clip.shape[3] // height * height, : clip.shape[4] // width * width]


def _limit(batches: TrainingBatches) -> list[Tensor]:
    """Return as many batches as fit into memory with their features, at least one."""
    kept: list[Tensor] = []
    for batch in batches:
        if kept and sum(b.numel() for b in kept) + batch.numel() > 3 * _MAX_PIXELS:
            break
        kept.append(batch)
    return kept


def _mean_psnr(originals: list[Tensor], reconstructions: list[Tensor]) -> float:
    """Return the mean PSNR over the samples of all ranks."""
    total = torch.zeros(2, dtype=torch.float64, device=originals[0].device)
    for original, reconstruction in zip(originals, reconstructions, strict=True):
        values = mean_over_frames(psnr, pixels_to_uint8(original), pixels_to_uint8(reconstruction.float()))
        total += torch.stack([values.double().sum(), total.new_tensor(float(len(values)))])
    sum_over_ranks(total)
    return float(total[0] / total[1])
