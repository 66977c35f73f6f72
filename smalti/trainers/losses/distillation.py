"""Distillation: a small decoder learns from the reconstructions of a large one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.checkpoints import fingerprint, load
from smalti.trainers.losses.base import ReconstructionLoss


class DistillationLoss(ReconstructionLoss):
    """Mean absolute difference between a reconstruction and that of a teacher.

    The teacher encodes the original with its own encoder. If the student has the same, frozen encoder and bottleneck, both
    decode the same latents. What the latents do not contain cannot be learned from the original, but the teacher's choice
    can: this target has no noise that the student could not explain.

    The teacher is not registered in this module: it is not part of checkpoints, averaged weights or DDP.

    Args:
        teacher: an exported folder, a checkpoint, or "diffusers:" and a folder or a repository of the Hub.

    Raises:
        SmaltiError: the teacher cannot be loaded.
    """

    def __init__(self, teacher: str) -> None:
        super().__init__()
        self._teachers = [load(teacher)]  # a list, because nn.Module does not register the modules in lists
        self.provenance = {"teacher": teacher, "sha256": fingerprint(teacher)}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._teachers[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the mean absolute difference, a scalar.

        Args:
            reconstruction: float32 pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            original: pixels of the same shape.
        """
        with torch.no_grad():
            target = self._teachers[0](original)[0]
        return F.l1_loss(reconstruction, target.float())
