"""LeCAM regularization of a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.distributed import mean_over_ranks
from smalti.trainers.keep_dtype import keep_dtype


class LeCAM(nn.Module):
    """Keeps the logits of a discriminator close to their moving averages (arXiv 2104.03310, eq. 3, one-sided).

        R = mean relu(real - average_fake)^2 + mean relu(average_real - fake)^2

    The averages cover all ranks and change once per optimizer step, however many micro-batches the step accumulates. They
    are buffers: checkpoints contain them, and updating them on the device needs no synchronization with the host. They stay
    in float32 if the module is converted to another type, because bfloat16 cannot represent their small changes.

    Args:
        decay: decay of the averages per optimizer step.
    """

    average_real: Tensor
    average_fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("average_real", torch.zeros(()))
        self.register_buffer("average_fake", torch.zeros(()))
        self._sum: Tensor | None = None  # (mean real, mean fake), summed over the micro-batches since the last update
        self._count = 0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(keep_dtype(fn), recurse)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the scalar penalty against the current averages. In training mode, remember the means for `update`.

        Args:
            real: logits of originals, of any shape.
            fake: logits of reconstructions, of any shape.
        """
        if self.training:
            means = torch.stack([real.detach().mean(), fake.detach().mean()]).float()
            self._sum = means if self._sum is None else self._sum + means
            self._count += 1
        return F.relu(real - self.average_fake).square().mean() + F.relu(self.average_real - fake).square().mean()

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages toward the mean logits since the last call. Call it once per optimizer step, on all ranks."""
        if self._sum is None:
            return
        (means,) = mean_over_ranks(self._sum / self._count)
        self._sum, self._count = None, 0
        self.average_real.lerp_(means[0], 1 - self.decay)
        self.average_fake.lerp_(means[1], 1 - self.decay)
