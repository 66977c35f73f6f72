"""LeCAM regularization of a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.distributed import mean_over_ranks


class LeCAM(nn.Module):
    """Keeps the logits of a discriminator close to their moving averages (arXiv 2104.03310, eq. 3, one-sided).

        R = mean relu(real - average_fake)^2 + mean relu(average_real - fake)^2

    The averages cover all ranks. They are buffers: checkpoints contain them, and updating them on the device needs no
    synchronization with the host.

    Args:
        decay: decay of the averages per step.
    """

    average_real: Tensor
    average_fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("average_real", torch.zeros(()))
        self.register_buffer("average_fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the scalar penalty against the current averages. In training mode, update the averages afterwards.

        Args:
            real: logits of originals, of any shape.
            fake: logits of reconstructions, of any shape.
        """
        penalty = F.relu(real - self.average_fake).square().mean() + F.relu(self.average_real - fake).square().mean()
        if self.training:
            with torch.no_grad():
                (means,) = mean_over_ranks(torch.stack([real.mean(), fake.mean()]).float())
                self.average_real.lerp_(means[0], 1 - self.decay)
                self.average_fake.lerp_(means[1], 1 - self.decay)
        return penalty
