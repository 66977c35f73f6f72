"""The report of `smalti check`."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from smalti.trainers import Audit, TokenizerTraining
from smalti.trainers.number_format import format_bytes


class StopAfterAudit(Callback):
    """Ends the training as soon as the audit of the first steps has finished.

    Args:
        audit: the audit, a callback of the same trainer that comes before this one.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the training."""
        if self._audit.finished:
            trainer.should_stop = True


def describe_audit(audit: Audit, trainer: pl.Trainer, module: TokenizerTraining) -> str:
    """Return the result of a complete audit as a table of the losses, the parameter groups and the memory."""
    losses = [("loss", "weight", "value", "trains")]
    for loss in audit.losses:
        name = loss.name if loss.branch is None else f"{loss.name} ({loss.branch})"
        losses.append((name, f"{loss.weight:g}", f"{loss.value:.4g}", ", ".join(loss.parts)))
    groups = [("network", "parameters", "learning rate", "changed")]
    for group in trainer.optimizers[0].param_groups:
        count = sum(p.numel() for p in group["params"])
        changed = audit.changed.get(group["name"])
        changed = "no: no gradient" if changed is None else "yes" if changed else "no: learning rate 0"
        groups.append((group["name"], f"{count:,}", f"{group['lr']:.3g}", changed))
    lines = [*_align(losses), "", *_align(groups), ""]
    lines.append(f"Frozen: {', '.join(module.frozen) or 'nothing'}.")
    if trainer.world_size > 1:
        lines.append(
            f"All {trainer.world_size} ranks have the same weights, before and after the first step, and the same data."
        )
    if audit.memory is not None:
        lines.append(f"Memory of a step per device, about: {audit.memory}.")
    if module.device.type == "cuda":
        lines.append(f"Measured peak: {format_bytes(torch.cuda.max_memory_allocated(module.device))}.")
    return "\n".join([*lines, "The recipe trains what it says."])


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the rows of a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
