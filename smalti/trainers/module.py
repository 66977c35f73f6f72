"""The Lightning module that trains any tokenizer."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from smalti.channel_groups import ChannelGroups, describe_groups
from smalti.distributed import world_size
from smalti.errors import DivergedError, SmaltiError
from smalti.legacy import upgrade_checkpoint
from smalti.seeds import derive_seed
from smalti.tokenizers.channels import unread_groups
from smalti.tokenizers.checkpoints import CHECKPOINT_KEY
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.autocast import disable_autocast
from smalti.trainers.compilation import compile_network
from smalti.trainers.gan import GANLoss, adaptive_factor, adaptive_weight
from smalti.trainers.gradients import average_gradients, clip_gradient_values, clip_gradients, gradient_norm
from smalti.trainers.hidden_matrices import hidden_matrices
from smalti.trainers.latent_augmentations.base import LatentAugmentation
from smalti.trainers.losses.base import Loss
from smalti.trainers.losses.provenance import (
    PROVENANCE_KEY,
    check_same_as_checkpoint,
    check_same_on_all_ranks,
    loss_provenance,
)
from smalti.trainers.losses.reconstruction import (
    build_loss_dict,
    check_colors,
    colors,
    compute_latent_losses,
    latent_losses,
    reconstruction_loss_names,
    reconstruction_losses,
)
from smalti.trainers.losses.weighting import LossNames, describe_weights, select_weights, weighted_sum
from smalti.trainers.muon import MATRIX_KEY
from smalti.trainers.nan_guard import BufferBackup, check_finite
from smalti.trainers.rank_errors import RankCrashError, RankError, raise_together
from smalti.trainers.resuming import apply_optimizer_settings, check_resumable
from smalti.trainers.schedules import build_schedule
from smalti.trainers.sharding import FSDP2Strategy, is_sharded, reshard, unshard
from smalti.trainers.step_summary import StepResult, StepSummary
from smalti.trainers.unused_parameters import UnusedParameters
from smalti.trainers.validation_metrics import ValidationMetrics, sample_metrics
from smalti.types import Batch, Latents

log = logging.getLogger(__name__)

"""The parts of a tokenizer."""

_SEED_KEY = "smalti_seed"


def _adam(parameters: Any) -> Optimizer:
    """Build Adam with the settings of WeTok (arXiv 2508.05599)."""
    return torch.optim.Adam(parameters, lr=1e-4, betas=(0.5, 0.9))


class TokenizerTraining(pl.LightningModule):
    """Trains a tokenizer, and optionally a discriminator, with one backward pass and one optimizer step.

        batch -> encoder, bottleneck -> latents, bottleneck losses, losses of latents
          -> latent augmentations -> decoder -> reconstruction
          -> l1, mse, losses of the recipe, GAN losses -> weighted sum

    The gradients of the tokenizer's losses and of the discriminator's losses do not overlap: the discriminator's parameters
    are constant in the adversarial loss, and the reconstruction is detached in the discriminator's losses. The gradient of
    the sum equals the gradients of two alternating steps that share one reconstruction. One optimizer with two parameter
    groups applies both. One step is one batch (after gradient accumulation). Lightning's gradient accumulation, clipping
    (by the norm of each network), weight averaging and mixed precision work without changes. Standard DDP works out of the
    box: `smalti.trainers.unused_parameters` handles parameters that a step does not use.

    Each loss is logged as `train/NAME`: its mean over the micro-batches of the optimizer step and over all ranks. For a
    joint tokenizer, it is also logged as `train/NAME_discrete` or `train/NAME_continuous`, depending on the branch of the
    step. Validation measures both branches; `val/psnr` is measured on the default branch of evaluation mode. Validation and
    test also log the losses of the recipe.

    The ranks exchange losses, NaN checks, failures, unused parameters and requests to stop in one all-reduce per optimizer
    step, see `smalti.trainers.step_summary`.

    All random numbers of a step depend only on the seed, the epoch, the index of the batch and the rank: a resumed run
    draws the same numbers as an uninterrupted one.

    Args:
        tokenizer: the tokenizer to train.
        weights: weights of the losses by name: l1, mse, the names in `losses`, the GAN losses (adversarial, lecam), and the
            losses of the bottleneck (kl, commitment, token_entropy, codebook_entropy, ...). A negative weight maximizes the
            loss. A loss without a weight is only logged. The loss `discriminator`, which trains the discriminator, has
            weight 1 unless a weight is given.
        losses: additional losses by name, such as "perceptual". In Python, any module that is called like a
            `ReconstructionLoss` works, with frozen parameters. A `LatentLoss` is trained with the tokenizer.
        gan: the discriminator and its losses; None: no GAN loss.
        optimizer: builds the optimizer from parameter groups; by default Adam with learning rate 1e-4, betas (0.5, 0.9).
        scheduler: builds the learning rate schedule from the optimizer, stepped once per optimizer step; None: constant.
        frozen: parts of the tokenizer that are not trained and stay in evaluation mode: "encoder", "bottleneck", "decoder",
            or modules in them, such as "decoder.conv_in". A frozen encoder also computes in float32 if the precision is
            mixed, so that the decoder learns from the codes that it gets in inference.
        latent_augmentations: augmentations of latents in training by name, such as "equivariance", applied in order.
        gradient_checkpointing: recompute the activations inside the tokenizer's blocks in the backward pass. The gradients
            are the same. Training needs less memory and takes about a third longer.
        compile: compile encoder, decoder and discriminator with `torch.compile`, see `compile_network`. The losses are the
            same up to rounding errors, except that compiled networks draw other random numbers.

    Raises:
        SmaltiError: a weight has an unknown name, no reconstruction loss has a positive weight, `frozen` names an unknown
            module or leaves nothing to train, a name in `losses` is taken, `gradient_checkpointing` is set for a tokenizer
            without blocks that support it, or `compile` is set together with an adaptive loss.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        weights: dict[str, float],
        losses: dict[str, Loss] | None = None,
        gan: GANLoss | None = None,
        optimizer: OptimizerCallable = _adam,
        scheduler: LRSchedulerCallable | None = None,
        frozen: list[str] | None = None,
        latent_augmentations: dict[str, LatentAugmentation] | None = None,
        *,
        gradient_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002 (PyTorch's name)
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.gan = gan
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.frozen = frozen or []
        self._freeze()
        bottleneck = tokenizer.bottleneck
        is_frozen = "bottleneck" in self.frozen  # and in evaluation mode, without losses
        self.losses = build_loss_dict(losses or {}, bottleneck.loss_names)
        self._channels = tokenizer.channels
        check_colors(self.losses, gan, self._channels)
        for loss in latent_losses(self.losses).values():
            loss.connect(tokenizer)
        self.latent_augmentations = nn.ModuleList((latent_augmentations or {}).values())
        names = LossNames(
            reconstruction_loss_names(self.losses, self._channels),
            () if is_frozen else bottleneck.loss_names,
            gan.loss_names if gan is not None else (),
            tuple(latent_losses(self.losses)),
            tuple(name for name, loss in latent_losses(self.losses).items() if loss.reconstructs),
        )
        self.weights = select_weights(weights, names)
        bottleneck_name = "the frozen bottleneck" if is_frozen else type(bottleneck).__name__
        self.loss_names = names
        self._metric_names = self._name_metrics(names)
        self._weight_messages = list(describe_weights(weights, names, bottleneck_name))
        if gradient_checkpointing and not enable_activation_checkpointing(tokenizer):
            raise SmaltiError(
                "No block of this tokenizer supports gradient checkpointing: remove gradient_checkpointing from the recipe."
            )
        if compile:
            self._compile_networks()
        self.train()
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._unused_parameters: UnusedParameters | None = None
        self._validation_metrics: dict[str, ValidationMetrics] = {}
        self._sample_names: list[str] = []
        self._summary: StepSummary | None = None
        self._buffer_backup: BufferBackup | None = None
        self._compiled = compile
        self._whole_parameters: list[nn.Parameter] = []
        self._stop_requested = self._stop_agreed = False
        self.step_result: StepResult | None = None
        """The last optimizer step over all ranks; None before the first step."""

    def _freeze(self) -> None:
        """Freeze the parameters of the modules in `frozen`."""
        modules = dict(self.tokenizer.named_modules())
        for name in self.frozen:
            if not name or name not in modules:
                part = name.partition(".")[0]
                inner = [child for child, _ in modules[part].named_children()] if part in modules and part else []
                known = [f"{part}.{child}" for child in inner] or ["encoder", "bottleneck", "decoder"]
                raise SmaltiError(
                    f"model.frozen contains '{name}', but the tokenizer has no such part: use {', '.join(known)}."
                )
            modules[name].requires_grad_(requires_grad=False)
        if "encoder" in self.frozen:
            if unread := unread_groups(self.tokenizer.encoder):
                raise SmaltiError(
                    f"The encoder does not read the channels {', '.join(unread)}, and it is frozen: remove encoder from "
                    "model.frozen."
                )
            disable_autocast(self.tokenizer.encoder)
        if not any(p.requires_grad for p in self.tokenizer.parameters()):
            raise SmaltiError(
                f"The tokenizer has no parameters to train (model.frozen: {', '.join(self.frozen) or 'none'}): remove a "
                "part from model.frozen. In Python, call requires_grad_() on a tokenizer that was loaded."
            )

    def _compile_networks(self) -> None:
        """Compile encoder, decoder and discriminator. Bottlenecks and losses run eagerly: some communicate with ranks."""
        if self.gan is not None and self.gan.adaptive:
            raise SmaltiError(
                "With compile, the decoder has one backward pass as a whole, and gan.adaptive would run it three times per "
                "step: remove model.compile or model.gan.adaptive from the recipe."
            )
        if adaptive := self._adaptive_losses():
            raise SmaltiError(
                f"With compile, the decoder has one backward pass as a whole, and the loss '{adaptive[0]}' would run it "
                "twice per step: remove model.compile, or set adaptive of the loss to false."
            )
        discriminators = [] if self.gan is None else [self.gan.discriminator]
        for network in (self.tokenizer.encoder, self.tokenizer.decoder, *discriminators):
            compile_network(network)

    def _name_metrics(self, names: LossNames) -> list[str]:
        """Return the names of everything that a training step can log, without "train/"."""
        losses = [*names.all, *(name + _suffix(branch) for name in names.all for branch in self.tokenizer.branches)]
        adaptive = ["adaptive_weight"] if self.gan is not None and self.gan.adaptive else []
        return [*losses, "loss", *adaptive, *(f"adaptive_weight_{name}" for name in self._adaptive_losses())]

    def train(self, mode: bool = True) -> TokenizerTraining:
        """Set training or evaluation mode. Frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.tokenizer.get_submodule(name).eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]."""
        return self.tokenizer(x)[0]

    # Training

    def setup(self, stage: str) -> None:
        """Refuse strategies and settings that cannot work together, before Lightning does so.

        Raises:
            SmaltiError: the strategy shards weights in another way than fsdp2, a setting does not work with fsdp2, or the
                data have other channels than the tokenizer.
        """
        given: ChannelGroups | None = getattr(getattr(self.trainer, "datamodule", None), "channels", None)
        if given is not None and given != self._channels:
            raise SmaltiError(
                f"The data have the channels {describe_groups(given)}, but the tokenizer has "
                f"{describe_groups(self._channels)}: set channels of model.tokenizer, or give other data."
            )
        strategy = self.trainer.strategy
        if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
            raise SmaltiError(
                f"{type(strategy).__name__} shards all weights, but GAN losses, averaged weights and checkpoints need more "
                "than it offers: use --trainer.strategy fsdp2."
            )
        if not isinstance(strategy, FSDP2Strategy):
            return
        for is_set, setting, reason in (
            (self._compiled, "model.compile", "sharded networks cannot be compiled to one graph"),
            (
                self.gan is not None and self.gan.adaptive,
                "model.gan.adaptive",
                "it needs gradients of the decoder's last layer, which is sharded",
            ),
            (
                bool(self._adaptive_losses()),
                f"adaptive of the loss '{', '.join(self._adaptive_losses())}'",
                "it needs gradients of the sharded decoder before the backward pass",
            ),
            (
                getattr(self.trainer.precision_plugin, "scaler", None) is not None,
                "precision 16-mixed",
                "each process would scale its shards of the gradients differently",
            ),
        ):
            if is_set:
                raise SmaltiError(
                    f"{setting} does not work with strategy fsdp2, because {reason}: remove it, or use "
                    f"{'bf16-mixed or ' if 'precision' in setting else ''}--trainer.strategy ddp."
                )

    def on_fit_start(self) -> None:
        """Log unused and missing weights. Prepare DDP for unused parameters, and disable its broadcast of buffers.

        The buffers that matter (LeCAM's averages, codebooks, spectral norms) are kept equal on all ranks by the modules
        that own them, and a broadcast in validation would wait forever for a rank that has no batch left.

        Raises:
            SmaltiError: the losses use different pretrained networks on different ranks.
        """
        check_same_on_all_ranks(loss_provenance(self.losses))
        if self.trainer.is_global_zero:
            for level, message in self._weight_messages:
                log.log(level, message)
        self._summary = self._buffer_backup = self._unused_parameters = self.step_result = None
        self._stop_requested = self._stop_agreed = False
        self._whole_parameters = []
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.broadcast_buffers = False
            self._unused_parameters = UnusedParameters(self.parameters())
        elif is_sharded(self):
            # A sharded parameter is unused on all ranks or on none. Gradients of the others are averaged here, not by DDP.
            self._whole_parameters = [p for p in self.parameters() if p.requires_grad and not isinstance(p, DTensor)]
            self._unused_parameters = UnusedParameters(self._whole_parameters)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random numbers of the step."""
        # Uses the batch index and not the total number of batches, which counts an interrupted and repeated batch twice.
        torch.manual_seed(derive_seed(self._seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute all losses, and return their weighted sum. The last micro-batch starts the all-reduce of the step.

        Raises:
            SmaltiError: the bottleneck does not compute the losses that it declares.
        """
        if self._summary is None:
            self._summary, self._sample_names = StepSummary(self._metric_names), []
            self._buffer_backup = BufferBackup([self.tokenizer, *([self.gan] if self.gan is not None else [])])
        self._sample_names += batch.names
        original = batch.pixels
        losses, latents = self._compute_losses(self.tokenizer, original, with_gan=self._uses_gan())
        branch = latents.code.branch
        weights = self._branch_weights(branch)
        metrics = losses | {name + _suffix(branch): value for name, value in losses.items()}
        scaled = dict(losses)
        for name in self._adaptive_losses():
            if weights.get(name) and losses[name].requires_grad and latents.z.requires_grad:
                factor = adaptive_factor(self._reconstruction_loss(losses, weights), losses[name], latents.z)
                metrics[f"adaptive_weight_{name}"], scaled[name] = factor, factor * losses[name]
        if self.gan is not None and self._uses_adaptive_weight(self.gan):
            metrics["adaptive_weight"] = self._adaptive_weight(losses, weights)
            scaled["adversarial"] = metrics["adaptive_weight"] * losses["adversarial"]
        total = weighted_sum(scaled, weights)
        self._summary.add(metrics | {"loss": total}, len(original))
        if self._unused_parameters is not None:
            total = self._unused_parameters.complete(total)
        if self._trainer is not None and not self.trainer.fit_loop._should_accumulate():
            unused = self._unused_parameters
            failed = self._data_error is not None
            self._summary.start([self._stop_requested, failed, *(unused.reached() if unused is not None else [])])
        return total

    def compute_losses(
        self, tokenizer: Tokenizer, original: Tensor, *, with_gan: bool
    ) -> tuple[dict[str, Tensor], str | None]:
        """Reconstruct a batch and compute all losses without their weights.

        Args:
            tokenizer: the tokenizer, or one of its branches.
            original: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            with_gan: whether to compute the GAN losses. Otherwise they are 0.

        Returns:
            Scalars by name, and the branch of a joint tokenizer that was used.

        Raises:
            SmaltiError: the bottleneck does not compute the losses that it declares.
        """
        losses, latents = self._compute_losses(tokenizer, original, with_gan=with_gan)
        return losses, latents.code.branch

    def _compute_losses(
        self, tokenizer: Tokenizer, original: Tensor, *, with_gan: bool
    ) -> tuple[dict[str, Tensor], Latents]:
        """Return all losses without their weights, and the latents before augmentation."""
        latents = augmented = tokenizer.encode(original)
        target = original
        for augmentation in self.latent_augmentations if self.training else ():
            augmented, target = augmentation(augmented, target, tokenizer.encoder.stride)
        reconstruction = tokenizer.decode(augmented)
        losses = reconstruction_losses(reconstruction, target, self.losses, self._channels) | latents.code.losses
        if self.training:
            losses |= self._latent_losses(latents, original)
        if self.gan is not None and with_gan:
            pair = (colors(reconstruction, self._channels), colors(target, self._channels))
            losses["adversarial"] = self.gan.generator_loss(*pair)
            losses |= self.gan(*pair)
        elif self.gan is not None:
            losses |= dict.fromkeys(self.gan.loss_names, original.new_zeros(()))
        return losses, latents

    def _latent_losses(self, latents: Latents, original: Tensor) -> dict[str, Tensor]:
        """Return the losses of latents, which compare them with red, green and blue."""
        if not latent_losses(self.losses):
            return {}
        return compute_latent_losses(self.losses, latents, colors(original, self._channels))

    def _adaptive_losses(self) -> list[str]:
        """Return the names of the losses of latents that are scaled by `adaptive_factor`."""
        return [name for name, loss in latent_losses(self.losses).items() if loss.adaptive]

    def _uses_gan(self) -> bool:
        return self.gan is not None and self.global_step >= self.gan.start

    def _branch_weights(self, branch: str | None) -> dict[str, float]:
        """Return the recipe's weights without those of losses that only the other branch computes."""
        bottleneck = self.tokenizer.bottleneck
        computed = bottleneck if branch is None else bottleneck.branches[branch]
        of_other_branch = set(bottleneck.loss_names) - set(computed.loss_names)
        return {name: weight for name, weight in self.weights.items() if name not in of_other_branch}

    def _uses_adaptive_weight(self, gan: GANLoss) -> bool:
        return gan.adaptive and bool(self.weights.get("adversarial")) and self._uses_gan()

    def _adaptive_weight(self, losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        """Return the factor of the adversarial loss, a scalar."""
        last_layer = cast(Tensor, self.tokenizer.decoder.last_layer.weight)
        return adaptive_weight(self._reconstruction_loss(losses, weights), losses["adversarial"], last_layer)

    def _reconstruction_loss(self, losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        """Return the weighted sum of the reconstruction losses."""
        names = reconstruction_loss_names(self.losses, self._channels)
        return weighted_sum(losses, {name: w for name, w in weights.items() if name in names})

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the GAN losses update what changes once per optimizer step and not with each micro-batch."""
        if self.gan is not None:
            self.gan.on_optimizer_step()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Finish the step before the optimizer changes the weights. Lightning calls this once per optimizer step.

        Reads the result of the step's all-reduce and logs it, removes the gradients of parameters that no rank used
        (otherwise, weight decay would change them), and clips the gradients of each network by the norm of that network
        alone.

        Raises:
            DivergedError: a loss or a gradient norm is NaN or infinite, in this process or another. Infinite gradient norms
                are left to the gradient scaler, if there is one. The buffers are those before the step.
            RankError, RankCrashError: a batch could not be loaded, in this process or another. The same holds then.
        """
        assert self._summary is not None
        summary, self._summary = self._summary, None
        average_gradients(self._whole_parameters)
        # All gradients are averaged now: the norms are the same on all ranks.
        norms = {group["name"]: gradient_norm(group["params"], self.device) for group in optimizer.param_groups}
        self.step_result = result = summary.finish(list(norms.values()))
        norms_on_host = dict(zip(norms, result.norms, strict=True))
        self._stop_agreed, failed, *reached = result.flags
        try:
            if failed:
                raise_together(self._data_error)
            self._check_finite(summary, result, norms_on_host)
        except (DivergedError, RankError, RankCrashError):
            if self._buffer_backup is not None:
                self._buffer_backup.restore()
            raise
        if self._unused_parameters is not None:
            self._unused_parameters.remove_gradients(reached)
        self.log_dict({f"train/{name}": mean for name, mean in result.means.items() if name != "loss"})
        self.log("train/loss", result.means["loss"], prog_bar=True)
        self.log_dict({f"train/gradient_norm_{name}": norm for name, norm in norms_on_host.items()})
        if not gradient_clip_val:
            return
        for group in optimizer.param_groups:
            if gradient_clip_algorithm == "value":
                clip_gradient_values(group["params"], gradient_clip_val)
            else:
                clip_gradients(group["params"], gradient_clip_val, norms[group["name"]])

    def _check_finite(self, summary: StepSummary, result: StepResult, norms: dict[str, Tensor]) -> None:
        """Raise a DivergedError on all ranks if a loss or a gradient is NaN or infinite on any of them."""
        if result.diverged_ranks:
            check_finite(summary.means(), self.global_step, self._sample_names, result.diverged_ranks)
        # In float16, infinite gradients are normal: the gradient scaler skips their steps.
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            gradients = {f"gradient of the {name}": norm for name, norm in norms.items()}
            check_finite(gradients, self.global_step, self._sample_names)

    @property
    def _data_error(self) -> Exception | None:
        """Why the training loader of this process repeats its last batch; None if it does not."""
        return getattr(self.trainer.train_dataloader, "error", None)

    def request_stop(self) -> None:
        """Ask all ranks to stop after an optimizer step. May be called at any time, also in a signal handler."""
        self._stop_requested = True

    @property
    def stops(self) -> bool:
        """Whether to stop before the next optimizer step, the same on all ranks.

        With several processes, a request that arrives in the backward pass of a step, or later, takes effect after the next
        step.
        """
        return self._stop_agreed or (self._stop_requested and world_size() == 1)

    def configure_optimizers(self) -> Any:
        """Build one optimizer with one parameter group per network, and its learning rate schedule.

        Raises:
            SmaltiError: the optimizer would clip scaled gradients, or see `smalti.trainers.schedules.build_schedule`.
        """
        optimizer, scheduler = self._build_optimizer()
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _build_optimizer(self) -> tuple[Optimizer, Any]:
        """Return the optimizer, and the learning rate schedule or None."""
        optimizer = self.optimizer(self.parameter_groups())
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise SmaltiError(
                "With precision 16-mixed, a fused optimizer removes the scale of the gradients inside of its step, after "
                "clipping: set model.optimizer.fused to false, or train with precision bf16-mixed."
            )
        if self.scheduler is None:
            return optimizer, None
        return optimizer, build_schedule(self.scheduler, optimizer, self.trainer.max_steps)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, one group per network, for an optimizer.

        Returns:
            Dictionaries with "name" ("tokenizer", "discriminator" or "losses"), "params", "is_hidden_matrix" (a bool per
            parameter, for `smalti.trainers.Muon`; other optimizers ignore it) and, if the discriminator has its own, "lr".
        """
        parameters = [p for p in self.tokenizer.parameters() if p.requires_grad]
        matrices = hidden_matrices(self.tokenizer)
        groups: list[dict[str, Any]] = [
            {"name": "tokenizer", "params": parameters, MATRIX_KEY: [p in matrices for p in parameters]}
        ]
        if self.gan is not None:
            parameters = list(self.gan.parameters())
            # Muon trains discriminators with Adam: their published learning rates remain valid.
            group = {"name": "discriminator", "params": parameters, MATRIX_KEY: [False] * len(parameters)}
            own_rate = {} if self.gan.learning_rate is None else {"lr": self.gan.learning_rate}
            groups.append(group | own_rate)
        parameters = [p for p in self.losses.parameters() if p.requires_grad]
        if parameters:
            groups.append({"name": "losses", "params": parameters, MATRIX_KEY: [False] * len(parameters)})
        return groups

    # Validation and test

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Collect the metrics of a batch, and return the reconstruction for callbacks."""
        return self._measure(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Collect the metrics of a batch, and return the reconstruction for callbacks."""
        return self._measure(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Gather sharded weights: a rank may have fewer batches than the others. Averaged weights are in place already."""
        unshard(self.tokenizer)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all samples of all processes."""
        reshard(self.tokenizer)
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over all samples of all processes."""
        self._log_metrics("test")

    def _measure(self, batch: Batch, batch_idx: int) -> Tensor:
        """Update the metrics of all branches of the tokenizer, and return the reconstruction of the default branch."""
        reconstruction, latents = self._reconstruct(self.tokenizer, batch, batch_idx)
        self._update_metrics("", batch.pixels, reconstruction, latents)
        for name, tokenizer in self.tokenizer.branches.items():
            is_default = name == latents.code.branch
            outputs = (reconstruction, latents) if is_default else self._reconstruct(tokenizer, batch, batch_idx)
            self._update_metrics(_suffix(name), batch.pixels, *outputs)
        return reconstruction

    @staticmethod
    def _reconstruct(tokenizer: Tokenizer, batch: Batch, batch_idx: int) -> tuple[Tensor, Latents]:
        # The seed makes a generative decoder draw the same noise in every validation.
        return tokenizer(batch.pixels, torch.Generator().manual_seed(batch_idx))

    def _update_metrics(self, suffix: str, original: Tensor, reconstruction: Tensor, latents: Latents) -> None:
        values = sample_metrics(reconstruction, original, self.losses, self._channels)
        self._validation_metrics.setdefault(suffix, ValidationMetrics()).update(values, latents.code.ids)

    def _log_metrics(self, stage: Literal["val", "test"]) -> None:
        metrics, self._validation_metrics = self._validation_metrics, {}
        tokenizers = {"": self.tokenizer} | {_suffix(name): branch for name, branch in self.tokenizer.branches.items()}
        for suffix, tokenizer in tokenizers.items():
            codebook_size = tokenizer.quantizer.codebook_size if tokenizer.discrete else None
            for name, value in metrics.get(suffix, ValidationMetrics()).compute(codebook_size).items():
                self.log(f"{stage}/{name}{suffix}", value, prog_bar=f"{name}{suffix}" == "psnr")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration from which `smalti.load` builds the tokenizer, the seed, and the networks of the losses."""
        checkpoint[CHECKPOINT_KEY] = get_config(self.tokenizer)
        checkpoint[_SEED_KEY] = self._seed
        checkpoint[PROVENANCE_KEY] = loss_provenance(self.losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Upgrade a checkpoint of an earlier version, check that it fits the recipe, and restore the seed.

        Settings of the optimizer and of the schedule are those of the recipe. Lightning calls this before it loads the
        weights and before the callbacks see the checkpoint.

        Raises:
            SmaltiError: the checkpoint belongs to another tokenizer or another recipe, or its losses used other networks.
        """
        upgrade_checkpoint(checkpoint)
        check_resumable(checkpoint, get_config(self.tokenizer), self.state_dict())
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            check_same_as_checkpoint(loss_provenance(self.losses), checkpoint)
            apply_optimizer_settings(checkpoint, *self._build_optimizer())
            if self._seed != checkpoint[_SEED_KEY] and self.trainer.is_global_zero:
                log.warning("The run continues with the seed %d of its checkpoint.", checkpoint[_SEED_KEY])
        self._seed = checkpoint[_SEED_KEY]


def _suffix(branch: str | None) -> str:
    """Return the suffix of logged names for a branch of a joint tokenizer."""
    return "" if branch is None else f"_{branch}"
