"""The Lightning module that trains any tokenizer of the suite."""

from __future__ import annotations

import os
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from smalti.distributed import mean_over_ranks
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.joint import Joint
from smalti.tokenizers.checkpoints import CHECKPOINT_KEY
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.gan import GANLoss
from smalti.trainers.losses.perceptual import PerceptualLoss
from smalti.trainers.losses.terms import RECONSTRUCTION, reconstruction_terms, weighted_sum
from smalti.trainers.losses.wavelet import WaveletLoss
from smalti.trainers.nan_guard import check_finite
from smalti.trainers.unused_parameters import UnusedParameters
from smalti.trainers.validation_metrics import ValidationMetrics, sample_metrics
from smalti.types import Batch, Code, Latents

_SEED_KEY = "smalti_seed"


def _adam(parameters: Any) -> Optimizer:
    """Adam as WeTok was trained with (arXiv 2508.05599)."""
    return torch.optim.Adam(parameters, lr=1e-4, betas=(0.5, 0.9))


class TokenizerTraining(pl.LightningModule):
    """Trains a tokenizer, and with an adversary a discriminator, in one backward pass and one optimizer step.

    The tokenizer's and the discriminator's losses are built on disjoint sets of parameters: the discriminator is constant
    while it judges, and sees reconstructions cut from their graph while it learns. So their sum has both gradients at once,
    equal to those of two alternating steps that share one reconstruction, and a single optimizer with two groups of
    parameters can take them. Hence steps count batches (over accumulation), Lightning's own accumulation, clipping (each
    network by its own norm), averaging and mixed precision work as they are. Plain `ddp` does, too: for what a step leaves
    alone (an image the temporal layers, a step of a joint tokenizer one of its paths) see `smalti.trainers.unused_parameters`.

    Each loss is logged as `train/NAME`; of a joint tokenizer also as `train/NAME_discrete` or `train/NAME_continuous`, by
    the path that the step took. Validation measures both paths; `val/psnr` is of the one that evaluation takes by itself.

    All randomness of a step is a function of the seed, the number of the batch and the rank: a resumed run draws what the
    unbroken one would have.

    Args:
        tokenizer: what is trained.
        weights: of the losses by name: l1, mse, perceptual, wavelet, adversarial, discriminator, lecam, and those of the
            bottleneck (kl, commitment, token_entropy, codebook_entropy, ...; a negative weight maximises). A loss without a
            weight is logged only.
        perceptual: the perceptual loss's network; None leaves the loss out.
        wavelet: the loss on frequencies; None leaves it out.
        gan: the discriminator and its game; None leaves it out.
        optimizer: from groups of parameters to an optimizer; Adam 1e-4, betas (0.5, 0.9) by default.
        scheduler: from the optimizer to a schedule, stepped once a step; None: constant.
        frozen: parts of the tokenizer that stay as they are, in evaluation mode: "encoder", "bottleneck", "decoder".
        gradient_checkpointing: compute the insides of the tokenizer's blocks again in the backward pass instead of keeping
            them: the same gradients for less memory and a third more time.

    Raises:
        SmaltiError: an unknown part in `frozen`, or `gradient_checkpointing` of a tokenizer without such blocks.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        weights: dict[str, float],
        perceptual: PerceptualLoss | None = None,
        gan: GANLoss | None = None,
        optimizer: OptimizerCallable = _adam,
        scheduler: LRSchedulerCallable | None = None,
        frozen: list[str] | None = None,
        wavelet: WaveletLoss | None = None,
        *,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.weights = weights
        self.perceptual = perceptual
        self.wavelet = wavelet
        self.gan = gan
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.frozen = frozen or []
        for name in self.frozen:
            part = getattr(tokenizer, name, None)
            if not isinstance(part, nn.Module):
                raise SmaltiError(
                    f"frozen names '{name}', but a tokenizer's parts are encoder, bottleneck and decoder."
                )
            part.requires_grad_(requires_grad=False)
        if gradient_checkpointing and not enable_activation_checkpointing(tokenizer):
            raise SmaltiError(
                "No block of this tokenizer can be recomputed: leave gradient_checkpointing out of the recipe."
            )
        self.train()
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._unreached: UnusedParameters | None = None
        self._measures: dict[str, ValidationMetrics] = {}
        self._losses_of: dict[str, set[str]] = {}
        self._names: list[str] = []
        self.flops_per_batch = None  # the throughput monitor asks; nobody has counted them

    def train(self, mode: bool = True) -> TokenizerTraining:
        """As everywhere, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            getattr(self.tokenizer, name).eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]."""
        return self.tokenizer(x)[0]

    # Training

    def on_fit_start(self) -> None:
        """Make data parallelism cope with what steps leave alone, and spare it a broadcast a step.

        The buffers that matter (LeCAM's averages, codebooks, spectral norms) are kept equal by their owners, and a
        broadcast in validation would wait for ever for a rank that has no batch left.
        """
        self._unreached = None
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.broadcast_buffers = False
            self._unreached = UnusedParameters(self.parameters())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the step's random numbers a function of seed, epoch, batch and rank alone."""
        # Not the count of all batches: it counts one twice that was interrupted and is repeated.
        torch.manual_seed(hash((self._seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One generator pass, one perceptual pass, one sum of all losses."""
        x = batch.pixels
        self._names = [*self._names, *batch.names] if batch_idx % self._accumulation else batch.names
        y, latents = self.tokenizer(x)
        path = self._path(latents.code)
        terms = reconstruction_terms(x, y, self.perceptual, self.wavelet) | latents.code.losses
        # Before the discriminator sees it: its batch norm and LeCAM's averages would keep what is not finite.
        check_finite(terms, self.global_step, batch.names)
        if self.gan is not None:
            game = self._play(self.gan, x, y)
            check_finite(game, self.global_step, batch.names)
            terms |= game
        total = weighted_sum(terms, self._weights_for(terms, path))
        for suffix in dict.fromkeys(("", path)):
            self.log_dict({f"train/{name}{suffix}": value.detach() for name, value in terms.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        return total if self._unreached is None else self._unreached.complete(total)

    @property
    def _accumulation(self) -> int:
        return self.trainer.accumulate_grad_batches if self._trainer is not None else 1

    def _path(self, code: Code) -> str:
        """What marks the path of a joint tokenizer that a code took, "_discrete" or "_continuous"; "" for any other."""
        if not isinstance(self.tokenizer.bottleneck, Joint):
            return ""
        return "_continuous" if code.ids is None else "_discrete"

    def _play(self, gan: GANLoss, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The game's terms; zeros before its start."""
        if self.global_step < gan.start:
            return dict.fromkeys(gan.losses, x.new_zeros(()))
        return {"adversarial": gan.generator_loss(x, y)} | gan(x, y)

    def _weights_for(self, terms: dict[str, Tensor], path: str) -> dict[str, float]:
        """The recipe's weights in this step; scales the adversarial one where it adapts."""
        weights = dict(self.weights)
        if self.gan is not None:
            weights.setdefault("discriminator", 1.0)
        if path:
            # Each path has losses of its own. A weight for what neither has is refused as soon as both have been seen.
            self._losses_of[path] = set(terms)
            elsewhere = set().union(*self._losses_of.values()) if len(self._losses_of) == 2 else weights.keys()
            weights = {name: w for name, w in weights.items() if name in terms or name not in elsewhere}
        gan = self.gan
        if gan is None or not gan.adaptive or not weights.get("adversarial"):
            return weights
        if self.global_step >= gan.start:
            reconstruction = weighted_sum(terms, {name: w for name, w in weights.items() if name in RECONSTRUCTION})
            factor = self._balance(reconstruction, terms["adversarial"])
            weights["adversarial"] *= factor
            self.log("train/adaptive_weight", factor)
        return weights

    def _balance(self, reconstruction: Tensor, adversarial: Tensor) -> float:
        """|d reconstruction| / |d adversarial| at the decoder's last layer (VQGAN, arXiv 2012.09841, eq. 7)."""
        weight = cast(Tensor, self.tokenizer.decoder.last_layer.weight)
        gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
        # The means over ranks are what one process with all the batches would have.
        norms = [gradient.norm() for gradient in mean_over_ranks(*gradients)]
        return float((norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave alone what the step's losses left alone, weight decay included."""
        if self._unreached is not None:
            self._unreached.withdraw()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each network by its own norm, so that neither takes the other's share; log the norms."""
        for group in optimizer.param_groups:
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self.log(f"train/gradient_norm_{group['name']}", norm)
            # Under float16 the scaler meets infinite gradients now and then, and skips their step.
            if getattr(self.trainer.precision_plugin, "scaler", None) is None:
                check_finite({f"gradient of the {group['name']}": norm}, self.global_step, self._names)
            if not gradient_clip_val:
                continue
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(group["params"], gradient_clip_val)
            else:
                torch.nn.utils.clip_grads_with_norm_(group["params"], gradient_clip_val, norm)

    def configure_optimizers(self) -> Any:
        """One optimizer with a group of parameters a network, and its schedule."""
        groups: list[dict[str, Any]] = [
            {"name": "tokenizer", "params": [p for p in self.tokenizer.parameters() if p.requires_grad]}
        ]
        if self.gan is not None:
            group: dict[str, Any] = {"name": "discriminator", "params": list(self.gan.parameters())}
            if self.gan.learning_rate is not None:
                group["lr"] = self.gan.learning_rate
            groups.append(group)
        optimizer = self.optimizer(groups)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR):
            ends, steps = scheduler.total_steps, self.trainer.max_steps
            if not 0 < steps <= ends:
                raise SmaltiError(
                    f"The schedule OneCycleLR ends after {ends} steps, but the trainer's max_steps is {steps}: "
                    "set model.scheduler.init_args.total_steps and trainer.max_steps to the same number."
                )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Validation and test

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Collect the metrics of a batch; returns the reconstruction for whoever wants to show it."""
        return self._measure(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As `validation_step`."""
        return self._measure(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all samples of all processes."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over all samples of all processes."""
        self._report("test")

    def _measure(self, batch: Batch, batch_idx: int) -> Tensor:
        """Of a joint tokenizer both paths; returns the reconstruction of the one that it takes by itself."""
        reconstruction, latents = self._reconstruct(self.tokenizer, batch, batch_idx)
        taken = self._path(latents.code)
        for path in dict.fromkeys(("", taken)):
            self._collect(path, batch.pixels, reconstruction, latents)
        for name, path in self.tokenizer.branches.items():
            if f"_{name}" != taken:
                self._collect(f"_{name}", batch.pixels, *self._reconstruct(path, batch, batch_idx))
        return reconstruction

    @staticmethod
    def _reconstruct(tokenizer: Tokenizer, batch: Batch, batch_idx: int) -> tuple[Tensor, Latents]:
        # A generative decoder draws the same noise every time.
        return tokenizer(batch.pixels, torch.Generator().manual_seed(batch_idx))

    def _collect(self, path: str, x: Tensor, y: Tensor, latents: Latents) -> None:
        values = sample_metrics(x, y, self.perceptual)
        self._measures.setdefault(path, ValidationMetrics()).update(values, latents.code.ids)

    def _report(self, stage: Literal["val", "test"]) -> None:
        collected, self._measures = self._measures, {}
        tokenizers = {"": self.tokenizer} | {f"_{name}": path for name, path in self.tokenizer.branches.items()}
        for path, tokenizer in tokenizers.items():
            codebook_size = tokenizer.quantizer.codebook_size if tokenizer.discrete else None
            for name, value in collected.get(path, ValidationMetrics()).results(codebook_size).items():
                self.log(f"{stage}/{name}{path}", value, prog_bar=f"{name}{path}" == "psnr")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `smalti.load` builds the tokenizer from, and the seed."""
        checkpoint[CHECKPOINT_KEY] = get_config(self.tokenizer)
        checkpoint[_SEED_KEY] = self._seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the seed of the run that is resumed.

        Raises:
            SmaltiError: the checkpoint is of another tokenizer.
        """
        theirs, ours = checkpoint.get(CHECKPOINT_KEY), get_config(self.tokenizer)
        if theirs != ours:
            raise SmaltiError(
                "The checkpoint was trained with another tokenizer than the recipe describes: resume with the config.yaml "
                "that stands beside it, or start from its weights with the WarmStart callback."
            )
        kept, wanted = checkpoint["state_dict"].keys(), self.state_dict().keys()
        for name in sorted(kept ^ wanted):
            where = "only in the checkpoint" if name in kept else "only in the recipe"
            raise SmaltiError(
                f"The checkpoint was trained with another recipe: the weight '{name}' is {where}; resume with the "
                "config.yaml that stands beside it, or start from its weights with --warm_start.path."
            )
        self._seed = checkpoint[_SEED_KEY]
