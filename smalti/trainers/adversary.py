"""A discriminator, the losses it gives and gets, and the regulariser that keeps it in bounds.

Shapes: B batch, H, W pixels, h, w patches.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.entropy import mean_over_ranks

Game = Literal["hinge", "non_saturating"]
"""The kinds of adversarial loss."""


class PatchDiscriminator(nn.Module):
    """PatchGAN: says of each patch how real it looks (pix2pix, arXiv 1611.07004; with 64 and 3, 2,765,633 parameters).

        conv4 stride 2 -> leaky ReLU -> [conv4 stride 2 -> batch norm -> leaky ReLU] -> conv4 -> norm -> leaky -> conv4

    Args:
        channels: filters of the first convolution.
        layers: convolutions of stride 2.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, layers + 1):
            before, width = width, channels * min(2**i, 8)
            stride = 2 if i < layers else 1
            body += [
                nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
            ]
        body.append(nn.Conv2d(width, 1, 4, padding=1))
        self.body = nn.Sequential(*body)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, 1, h, w); with three layers H and W are at least 24."""
        return self.body(x)


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, as in DCGAN (arXiv 1511.06434)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def generator_loss(fake: Tensor, kind: Game) -> Tensor:
    """What the tokenizer pays for being recognised.

    Args:
        fake: (B, 1, h, w) logits of reconstructions.
        kind: "hinge": -mean(fake) (arXiv 1705.02894); "non_saturating": softplus(-(mean over patches)), averaged over
            samples (arXiv 1406.2661, on the mean logit of a sample, as MAGVIT-v2 and WeTok have it).
    """
    return -fake.mean() if kind == "hinge" else F.softplus(-fake.flatten(1).mean(1)).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: Game) -> Tensor:
    """What the discriminator pays for mistakes.

    Args:
        real: (B, 1, h, w) logits of originals.
        fake: (B, 1, h, w) logits of reconstructions.
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
        """The penalty of logits (B, 1, h, w) against the averages so far; in training mode, then updates them."""
        penalty = F.relu(real - self.average_fake).square().mean() + F.relu(self.average_real - fake).square().mean()
        if self.training:
            with torch.no_grad():
                (means,) = mean_over_ranks(torch.stack([real.mean(), fake.mean()]).float())
                self.average_real.lerp_(means[0], 1 - self.decay)
                self.average_fake.lerp_(means[1], 1 - self.decay)
        return penalty


class Adversary(nn.Module):
    """A discriminator and its game.

    Args:
        discriminator: (B, 3, H, W) to logits; `PatchDiscriminator()` if None.
        generator_loss: see the function of that name.
        discriminator_loss: see the function of that name.
        lecam_decay: decay of LeCAM's averages.
        start: first optimizer step at which the game is played.
        adaptive: scale the tokenizer's adversarial loss so that its gradient at the decoder's last layer is as large as the
            reconstruction's (VQGAN, arXiv 2012.09841, eq. 7), times its weight in the recipe.
        learning_rate: the discriminator's, where it differs from the tokenizer's.
    """

    def __init__(
        self,
        discriminator: nn.Module | None = None,
        generator_loss: Game = "non_saturating",
        discriminator_loss: Game = "hinge",
        lecam_decay: float = 0.999,
        start: int = 0,
        *,
        adaptive: bool = False,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.discriminator = PatchDiscriminator() if discriminator is None else discriminator
        self.lecam = LeCAM(lecam_decay)
        self.generator_loss: Game = generator_loss
        self.discriminator_loss: Game = discriminator_loss
        self.start = start
        self.adaptive = adaptive
        self.learning_rate = learning_rate

    def judge(self, reconstruction: Tensor) -> Tensor:
        """The scalar `adversarial` loss of reconstructions (B, 3, H, W); its gradient passes the discriminator by."""
        # Parameters that want no gradient when the graph is built get none, and are whole again for `forward`.
        parameters = [p for p in self.discriminator.parameters() if p.requires_grad]
        for p in parameters:
            p.requires_grad_(False)
        try:
            logits = self.discriminator(reconstruction)
        finally:
            for p in parameters:
                p.requires_grad_(True)
        return generator_loss(logits.float(), self.generator_loss)

    def forward(self, original: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """The discriminator's own losses, `discriminator` and `lecam`, which leave the tokenizer alone.

        Args:
            original: (B, 3, H, W) in [-1, 1].
            reconstruction: (B, 3, H, W); its graph is cut here.
        """
        real = self.discriminator(original).float()
        fake = self.discriminator(reconstruction.detach()).float()
        return {
            "discriminator": discriminator_loss(real, fake, self.discriminator_loss),
            "lecam": self.lecam(real, fake),
        }

    def idle(self) -> Tensor:
        """A zero that touches every parameter: before the game starts, data parallelism still wants their gradients."""
        return torch.stack([p.sum() * 0 for p in self.discriminator.parameters()]).sum()
