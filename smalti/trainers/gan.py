"""Games with a discriminator, the losses it gives and gets, and the regulariser that keeps it in bounds.

Shapes: B batch, T frames, H, W pixels. Pixels are (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]. Logits are (B', 1, ...),
and B' is B, or B T where the discriminator takes frames as images.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.distributed import mean_over_ranks
from smalti.errors import SmaltiError
from smalti.trainers.discriminators import PatchDiscriminator

GANLossKind = Literal["hinge", "non_saturating"]
"""The kinds of adversarial loss."""


def generator_loss(fake: Tensor, kind: GANLossKind) -> Tensor:
    """What the tokenizer pays for being recognised.

    Args:
        fake: (B', 1, ...) logits of reconstructions.
        kind: "hinge": -mean(fake) (arXiv 1705.02894); "non_saturating": softplus(-(mean over patches)), averaged over
            samples (arXiv 1406.2661, on the mean logit of a sample, as MAGVIT-v2 and WeTok have it).
    """
    return -fake.mean() if kind == "hinge" else F.softplus(-fake.flatten(1).mean(1)).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: GANLossKind) -> Tensor:
    """What the discriminator pays for mistakes.

    Args:
        real: (B', 1, ...) logits of originals.
        fake: (B', 1, ...) logits of reconstructions.
        kind: "hinge": (mean relu(1 - real) + mean relu(1 + fake)) / 2; "non_saturating": the logistic loss,
            (mean softplus(-real) + mean softplus(fake)) / 2.
    """
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


class LeCAM(nn.Module):
    """Keeps the logits near their own moving averages (arXiv 2104.03310, eq. 3, one-sided).

        R = mean relu(real - average_fake)^2 + mean relu(average_real - fake)^2

    The averages are buffers: they live on the device and in the checkpoint, need no synchronisation with the host, and are
    of all ranks.

    Args:
        decay: of the averages, a step.
    """

    average_real: Tensor
    average_fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("average_real", torch.zeros(()))
        self.register_buffer("average_fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty of logits (B', 1, ...) against the averages so far; in training mode, then updates them."""
        penalty = F.relu(real - self.average_fake).square().mean() + F.relu(self.average_real - fake).square().mean()
        if self.training:
            with torch.no_grad():
                (means,) = mean_over_ranks(torch.stack([real.mean(), fake.mean()]).float())
                self.average_real.lerp_(means[0], 1 - self.decay)
                self.average_fake.lerp_(means[1], 1 - self.decay)
        return penalty


class GANLoss(nn.Module):
    """A discriminator and its game: it looks at one thing at a time, and says whether it is an original.

    Args:
        discriminator: pixels to logits; `PatchDiscriminator()` if None. It is given images or clips as they are.
        generator_loss: see the function of that name.
        discriminator_loss: see the function of that name.
        lecam_decay: decay of LeCAM's averages.
        start: first optimizer step at which the game is played.
        adaptive: scale the tokenizer's adversarial loss so that its gradient at the decoder's last layer is as large as the
            reconstruction's (VQGAN, arXiv 2012.09841, eq. 7), times its weight in the recipe.
        learning_rate: the discriminator's, where it differs from the tokenizer's.

    Raises:
        SmaltiError: a discriminator that takes another number of channels than this game shows it.
    """

    losses: ClassVar[tuple[str, ...]] = ("adversarial", "discriminator", "lecam")
    """Names of what `generator_loss` and `forward` give."""
    in_channels: ClassVar[int] = 3
    """Channels that the discriminator sees."""

    def __init__(
        self,
        discriminator: nn.Module | None = None,
        generator_loss: GANLossKind = "non_saturating",
        discriminator_loss: GANLossKind = "hinge",
        lecam_decay: float = 0.999,
        start: int = 0,
        *,
        adaptive: bool = False,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        if discriminator is None:
            discriminator = PatchDiscriminator(in_channels=self.in_channels)
        taken = getattr(discriminator, "in_channels", self.in_channels)
        if taken != self.in_channels:
            raise SmaltiError(
                f"{type(self).__name__} shows {self.in_channels} channels, but its discriminator takes {taken}: set the "
                f"discriminator's in_channels to {self.in_channels} in the recipe."
            )
        self.discriminator = discriminator
        self.lecam = LeCAM(lecam_decay)
        self.generator_loss_kind: GANLossKind = generator_loss
        self.discriminator_loss_kind: GANLossKind = discriminator_loss
        self.start = start
        self.adaptive = adaptive
        self.learning_rate = learning_rate

    def generator_loss(self, original: Tensor, reconstruction: Tensor) -> Tensor:
        """The scalar `adversarial` loss of reconstructions; its gradient passes the discriminator by.

        The discriminator stays in training mode: batch norm uses the batch, and spectral norm takes one more step of its
        power iteration, so that `forward` scales the same weights by a better estimate; as in two alternating steps.

        Args:
            original: pixels.
            reconstruction: of the same shape.
        """
        # Parameters that want no gradient when the graph is built get none, and are whole again for `forward`.
        parameters = [p for p in self.discriminator.parameters() if p.requires_grad]
        for p in parameters:
            p.requires_grad_(False)
        try:
            fake = self._fake(original, reconstruction)
        finally:
            for p in parameters:
                p.requires_grad_(True)
        return generator_loss(fake, self.generator_loss_kind)

    def forward(self, original: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """The discriminator's own losses, `discriminator` and `lecam`, which leave the tokenizer alone.

        Args:
            original: pixels.
            reconstruction: of the same shape; its graph is cut here.
        """
        real, fake = self._real_and_fake(original, reconstruction.detach())
        return {
            "discriminator": discriminator_loss(real, fake, self.discriminator_loss_kind),
            "lecam": self.lecam(real, fake),
        }

    def _fake(self, original: Tensor, reconstruction: Tensor) -> Tensor:
        """Logits, in float32, of the reconstruction's being an original."""
        return self.discriminator(reconstruction).float()

    def _real_and_fake(self, original: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, in float32, of the original's and of the reconstruction's being an original."""
        return self.discriminator(original).float(), self._fake(original, reconstruction)


class ReconstructionGANLoss(GANLoss):
    """A reconstruction GAN: the discriminator sees both together, and says which is which (LTX-Video, arXiv 2501.00103).

    Original and reconstruction are concatenated along channels, in an order that is drawn for each sample. So it need not
    know what is real in general, but what a reconstruction changes. With a logit d of "the first is the original", s = 1
    where it is and -1 where not, the original's logit of being the original is s d, and the reconstruction's -s d; the
    losses are those of `Adversary` on these.

    Arguments as `Adversary`; the discriminator takes 6 channels, and is `PatchDiscriminator(in_channels=6)` if None.
    """

    in_channels: ClassVar[int] = 6

    def _fake(self, original: Tensor, reconstruction: Tensor) -> Tensor:
        first = torch.rand(len(original), device=original.device) < 0.5
        logits = self.discriminator(concatenate_pair(original, reconstruction, first)).float()
        # A discriminator that takes frames as images has as many logits a sample as there are frames.
        sign = torch.where(first, 1.0, -1.0).repeat_interleave(len(logits) // len(original))
        return -logits * sign.view(-1, *[1] * (logits.ndim - 1))

    def _real_and_fake(self, original: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        fake = self._fake(original, reconstruction)
        return -fake, fake


def concatenate_pair(original: Tensor, reconstruction: Tensor, first: Tensor) -> Tensor:
    """Two (B, 3, ...) side by side, (B, 6, ...): the original first where `first` (B,) says so, second elsewhere."""
    reconstruction = reconstruction.to(original.dtype)
    both = torch.cat([original, reconstruction], dim=1), torch.cat([reconstruction, original], dim=1)
    return torch.where(first.view(-1, *[1] * (original.ndim - 1)), *both)
