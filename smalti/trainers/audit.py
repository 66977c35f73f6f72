"""Audit of the first training step: which losses train what, whether weights change, and whether the ranks agree."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor
from torch.distributed.tensor import DTensor

from smalti.distributed import gather
from smalti.errors import LESS_MEMORY, SmaltiError
from smalti.trainers.ema import TokenizerEMA
from smalti.trainers.keep_dtype import view_bits
from smalti.trainers.memory_estimate import MemoryEstimate, SavedTensors, all_weights, estimate_memory
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.nan_guard import BufferBackup
from smalti.trainers.sharding import is_sharded, local_part, reshard, unshard
from smalti.trainers.unused_parameters import reached_leaves
from smalti.types import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossAudit:
    """What a weighted loss trains.

    Attributes:
        name: name of the loss.
        branch: branch of a joint tokenizer; None for other tokenizers.
        weight: weight in the recipe.
        value: unweighted value before the first step.
        parts: the parts with trained parameters that the gradient of the loss reaches, such as "decoder".
    """

    name: str
    branch: str | None
    weight: float
    value: float
    parts: tuple[str, ...]


@dataclass(frozen=True)
class _RankReport:
    """What a rank has found, for all ranks.

    Attributes:
        problems: sentences.
        weights: checksums of the parameters that all ranks share.
        data: digest of the training data; None if it has none.
        batch: checksum of the first batch; None after the first step.
    """

    problems: list[str]
    weights: list[int]
    data: str | None = None
    batch: int | None = None


class Audit(Callback):
    """Checks the first step of a run, and ends the run if it would train something else than the recipe says.

    Before the first step, on the first batch, with the GAN losses even if they start later:

    - The gradient of each weighted loss reaches the parts that it should train, and no others. Reconstruction losses and
      `adversarial` train encoder and decoder; losses of the bottleneck train encoder or bottleneck, and so do losses of
      latents, besides their own parameters; `LatentRestoration` trains the decoder; `discriminator` and `lecam` train the
      discriminator. A loss that is computed without gradient, or a quantizer that stops the gradient, is found here.
    - All ranks have the same weights and the same training data.
    - The memory of a step is estimated.

    After the first optimizer steps:

    - Parameters of every group have changed, unless they have no gradient or the learning rate is 0.
    - Frozen parts and the networks of losses have not changed.
    - All ranks still have the same weights: gradients are averaged over ranks.

    The audit costs one forward pass and changes neither weights, buffers nor random numbers of the run. Sharded weights are
    gathered for it; their memory is not estimated.

    Args:
        patience: optimizer steps after which an unchanged group is an error. A gradient scaler, or a schedule that starts
            at 0, may skip the first ones.

    Attributes:
        losses: the weighted losses; empty before the first step.
        memory: the estimate; None before the first step and with sharded weights.
        changed: for each parameter group with gradients, whether its parameters have changed so far.
        finished: whether nothing is left to check.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.losses: list[LossAudit] = []
        self.memory: MemoryEstimate | None = None
        self.changed: dict[str, bool] = {}
        self.finished = False
        self._first_step: int | None = None
        self._trained: dict[str, list[int]] = {}
        self._constant: dict[str, list[int]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Audit every run of a trainer."""
        self.losses, self.memory, self.changed, self.finished, self._first_step = [], None, {}, False, None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Audit the losses and the ranks before the first step.

        Raises:
            SmaltiError: a loss trains something else than it should, or the ranks differ; all ranks raise it. Or the device
                has not enough memory.
        """
        if self._first_step is not None:
            return
        module = cast(TokenizerTraining, pl_module)
        self._first_step = trainer.global_step
        sharded = is_sharded(module)
        unshard(module.tokenizer)
        callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        averaged = any(isinstance(callback, TokenizerEMA) for callback in callbacks)
        size = " x ".join(map(str, batch.pixels.shape))
        try:
            self.losses, activations = _audit_losses(trainer, module, batch)
        except torch.OutOfMemoryError as error:
            memory = estimate_memory(module, 0, averaged=averaged)
            raise SmaltiError(
                f"There is not enough memory for a step with a batch of {size}, which needs {memory} without activations: "
                f"{LESS_MEMORY}."
            ) from error
        problems = [p for loss in self.losses if (p := _find_problem(loss, module)) is not None]
        reshard(module.tokenizer)
        if not sharded:
            self.memory = estimate_memory(module, activations, averaged=averaged)
        self._trained = {group["name"]: _checksums(group["params"]) for group in _groups(trainer)}
        self._constant = _constant_checksums(module)
        digest = getattr(getattr(trainer, "datamodule", None), "digest", None)
        data = None if digest is None else digest()
        reports = gather(_RankReport(problems, _shared_weights(module), data, _checksums([batch.pixels])[0]))
        _raise_first_problem(reports, "at the start: initialize them with the same seed, or load the same weights")
        if trainer.is_global_zero:
            _warn_about_equal_batches(reports)
            if self.memory is not None:
                log.info("Memory of a step with a batch of %s, about: %s.", size, self.memory)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Audit the weights after each of the first optimizer steps, until every group has changed.

        Raises:
            SmaltiError: weights have changed although they should not, or the other way around. All ranks raise it.
        """
        if self.finished or self._first_step is None or trainer.global_step == self._first_step:
            return
        module = cast(TokenizerTraining, pl_module)
        steps = trainer.global_step - self._first_step
        constant = _constant_checksums(module)
        problems = [
            f"The first steps changed the {name}: something else than the optimizer writes to it."
            for name, checksums in constant.items()
            if checksums != self._constant[name]
        ]
        for group in _groups(trainer):
            if any(p.grad is not None for p in group["params"]):
                name = group["name"]
                self.changed[name] = _checksums(group["params"]) != self._trained[name]
                if not self.changed[name] and steps >= self.patience and group["lr"] > 0:
                    problems.append(
                        f"The first {steps} steps changed no parameter of the {name}: its gradient is zero, or its "
                        f"learning rate, {group['lr']:.3g}, is too small for the precision of the weights; check "
                        "model.weights and model.optimizer."
                    )
        self.finished = all(self.changed.values()) or steps >= self.patience
        _raise_first_problem(
            gather(_RankReport(problems, _shared_weights(module))),
            "after an optimizer step, because their gradients are not averaged: train with trainer.strategy ddp",
        )


def _audit_losses(trainer: pl.Trainer, module: TokenizerTraining, batch: Batch) -> tuple[list[LossAudit], int]:
    """Compute the losses of every branch, without any effect on the run.

    Returns:
        The weighted losses, and the largest size in bytes of the tensors that are kept for a backward pass.
    """
    backup = BufferBackup([module])
    stage = trainer.state.stage
    lecam = None if module.gan is None else module.gan.lecam
    tokenizers = dict(module.tokenizer.branches) or {None: module.tokenizer}
    audits: list[LossAudit] = []
    activations = 0
    # Callbacks that measure training batches, and LeCAM, ignore this one.
    trainer.state.stage = RunningStage.SANITY_CHECKING
    if lecam is not None:
        lecam.eval()
    try:
        for branch, tokenizer in tokenizers.items():
            saved = SavedTensors([*all_weights(module), batch.pixels])
            with trainer.precision_plugin.train_step_context(), saved.measure():
                losses, _ = module.compute_losses(tokenizer, batch.pixels, with_gan=True)
            activations = max(activations, saved.size)
            audits += _follow_gradients(module, losses, branch)
            del losses  # and the graph, before the next branch builds its own
    finally:
        trainer.state.stage = stage
        backup.restore()
        if lecam is not None:
            lecam.train()
    return audits, activations


def _follow_gradients(module: TokenizerTraining, losses: dict[str, Tensor], branch: str | None) -> Iterable[LossAudit]:
    """Yield what each weighted loss trains."""
    parts = _trained_parts(module)
    for name, loss in losses.items():
        weight = module.weights.get(name, 0.0)
        if weight:
            leaves = reached_leaves(loss)
            reached = tuple(part for part, parameters in parts.items() if leaves & parameters)
            yield LossAudit(name, branch, weight, loss.item(), reached)


def _find_problem(loss: LossAudit, module: TokenizerTraining) -> str | None:
    """Return a sentence if a loss does not reach what it should, or reaches what it should not; else None."""
    trained = _trained_parts(module).keys()
    names = module.loss_names
    if loss.name in names.bottleneck:
        allowed = {"encoder", "bottleneck"}
        is_complete = bool(allowed.intersection(loss.parts))
        wanted = "encoder or bottleneck"
    elif loss.name in names.restoration:
        allowed = {"decoder", "losses"}
        is_complete = "decoder" in loss.parts
        wanted = "the decoder"
    elif loss.name in names.latent:
        allowed = {"encoder", "bottleneck", "losses"}
        is_complete = bool({"encoder", "bottleneck"}.intersection(loss.parts))
        wanted = "encoder or bottleneck"
    elif loss.name in names.gan[1:]:
        allowed = {"discriminator"}
        is_complete = "discriminator" in loss.parts
        wanted = "the discriminator"
    else:
        allowed = {"encoder", "bottleneck", "decoder"}
        required = ({"encoder", "decoder"} & trained) or {"bottleneck"}
        is_complete = required.issubset(loss.parts)
        wanted = " and ".join(sorted(required))
    where = f"The loss '{loss.name}' (weight {loss.weight:g})" + (
        "" if loss.branch is None else f" of the {loss.branch} branch"
    )
    reached = " and ".join(loss.parts) or "nothing"
    if not is_complete:
        return (
            f"{where} should train {wanted}, but its gradient reaches {reached}: remove its weight, or compute it without "
            "detach() and torch.no_grad() (in a quantizer, use a straight-through estimator)."
        )
    if forbidden := [part for part in loss.parts if part not in allowed]:
        return (
            f"{where} should train {wanted} only, but its gradient also reaches the {' and '.join(forbidden)}: "
            "detach what it must not train."
        )
    return None


def _trained_parts(module: TokenizerTraining) -> dict[str, set[int]]:
    """Return the ids of the trained parameters of each part. Parts without any are left out."""
    tokenizer = module.tokenizer
    modules = {"encoder": tokenizer.encoder, "bottleneck": tokenizer.bottleneck, "decoder": tokenizer.decoder}
    if module.gan is not None:
        modules["discriminator"] = module.gan
    modules["losses"] = module.losses
    parts = {name: {id(p) for p in part.parameters() if p.requires_grad} for name, part in modules.items()}
    return {name: parameters for name, parameters in parts.items() if parameters}


def _groups(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Return the parameter groups, one for each network."""
    return trainer.optimizers[0].param_groups


def _constant_checksums(module: TokenizerTraining) -> dict[str, list[int]]:
    """Return checksums of everything that training must not change, by the names of its owners."""
    constant = {
        f"frozen {name}": list(module.tokenizer.get_submodule(name).state_dict().values()) for name in module.frozen
    }
    frozen = {name: [p for p in loss.parameters() if not p.requires_grad] for name, loss in module.losses.items()}
    constant |= {f"network of the loss '{name}'": parameters for name, parameters in frozen.items()}
    return {name: _checksums(tensors) for name, tensors in constant.items()}


def _shared_weights(module: TokenizerTraining) -> list[int]:
    return _checksums([p for p in module.parameters() if not isinstance(p, DTensor)])


@torch.no_grad()
def _checksums(tensors: Iterable[Tensor]) -> list[int]:
    """Return for each tensor a number that changes if its bits change. The host waits for the device once."""
    local = [local_part(tensor.detach()) for tensor in tensors]
    sums = [view_bits(tensor).sum(dtype=torch.int64) for tensor in local]
    return torch.stack(sums).tolist() if sums else []


def _raise_first_problem(reports: list[_RankReport], cause: str) -> None:
    """Raise an error if a rank has found a problem, or if the ranks differ. All ranks must call this with the same reports.

    Args:
        reports: those of all ranks, in order.
        cause: the end of the sentence if weights differ.

    Raises:
        SmaltiError: they do.
    """
    for rank, report in enumerate(reports):
        if report.problems:
            raise SmaltiError(report.problems[0])
        if report.weights != reports[0].weights:
            raise SmaltiError(f"The weights of rank {rank} differ from those of rank 0 {cause}.")
        if report.data != reports[0].data:
            raise SmaltiError(
                f"The training data of rank {rank} differs from that of rank 0: give all nodes the same files under the "
                "same path."
            )


def _warn_about_equal_batches(reports: list[_RankReport]) -> None:
    for (first, one), (second, other) in itertools.combinations(enumerate(reports), 2):
        if one.batch == other.batch:
            log.warning(
                "Ranks %d and %d train on the same first batch: check that the data module gives each rank other samples.",
                first, second,
            )  # fmt: skip
            return
