"""GAN losses: a discriminator with its losses, and the adversarial loss of the tokenizer.

Shapes: B batch, T frames, H, W pixels. Pixels are (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]. Logits are (B', 1, ...),
where B' is B, or B T if the discriminator processes frames as images.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.distributed import mean_over_ranks
from smalti.errors import SmaltiError
from smalti.trainers.discriminators import Discriminator, PatchDiscriminator
from smalti.trainers.lecam import LeCAM

GANLossKind = Literal["hinge", "non_saturating"]
"""The kinds of generator and discriminator losses."""


def generator_loss(fake: Tensor, kind: GANLossKind) -> Tensor:
    """Compute the scalar loss of the generator, which is the tokenizer.

    Args:
        fake: (B', 1, ...) logits of reconstructions.
        kind: "hinge": -mean(fake) (arXiv 1705.02894). "non_saturating": softplus(-(mean over patches)), averaged over
            samples (arXiv 1406.2661, on the mean logit of each sample, as in MAGVIT-v2 and WeTok).
    """
    return -fake.mean() if kind == "hinge" else F.softplus(-fake.flatten(1).mean(1)).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: GANLossKind) -> Tensor:
    """Compute the scalar loss of the discriminator.

    Args:
        real: (B', 1, ...) logits of originals.
        fake: (B', 1, ...) logits of reconstructions.
        kind: "hinge": (mean relu(1 - real) + mean relu(1 + fake)) / 2. "non_saturating": the logistic loss,
            (mean softplus(-real) + mean softplus(fake)) / 2.
    """
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def guessing_loss(kind: GANLossKind) -> float:
    """Return the loss of a discriminator whose logits are all 0: 1 for "hinge", ln 2 for "non_saturating"."""
    return 1.0 if kind == "hinge" else math.log(2)


def adaptive_weight(reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Return |d reconstruction loss| / |d adversarial loss| at the last layer (VQGAN, arXiv 2012.09841, eq. 7).

    Args:
        reconstruction_loss: scalar.
        adversarial_loss: scalar.
        last_layer: weight of the decoder's last layer.

    Returns:
        The ratio of the gradient norms, a scalar in [0, 1e4] without a gradient, the same on all ranks.
    """
    losses = reconstruction_loss, adversarial_loss
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in losses]
    # The means over ranks equal the gradients of one process with the batches of all ranks.
    norms = [gradient.norm() for gradient in mean_over_ranks(*gradients)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()


def adaptive_factor(reconstruction_loss: Tensor, loss: Tensor, z: Tensor) -> Tensor:
    """Return |d reconstruction loss / dz| / |d loss / dz| at the latents (VA-VAE, arXiv 2501.01423, eq. 7).

    VA-VAE compares the gradients at the encoder's last layer. Those at its output, the latents, differ by the layer's input
    alone, and every encoder has them.

    Args:
        reconstruction_loss: scalar.
        loss: scalar.
        z: latents that both depend on.

    Returns:
        The ratio of the gradient norms over all ranks, a scalar in [0, 1e4] without a gradient.
    """
    gradients = [torch.autograd.grad(scalar, z, retain_graph=True)[0] for scalar in (reconstruction_loss, loss)]
    # Each rank has other latents: the squared norms of all latents add up.
    squares = mean_over_ranks(*(gradient.square().sum() for gradient in gradients))
    return (squares[0].sqrt() / (squares[1].sqrt() + 1e-6)).clamp(0, 1e4).detach()


class GANLoss(nn.Module):
    """A discriminator that classifies each image or clip as an original or a reconstruction, with its losses.

    Losses:
        adversarial: loss of the tokenizer. Give it a weight, such as 0.1.
        discriminator: loss of the discriminator. Its weight is 1 unless the recipe gives another.
        lecam: regularization of the discriminator (`LeCAM`). Without a weight, it is only logged.

    Args:
        discriminator: the discriminator; None: `PatchDiscriminator()`. In Python, any module that is called like a
            `Discriminator` works.
        generator_loss: adversarial loss of the tokenizer: "hinge", or "non_saturating" as in MAGVIT-v2 and WeTok.
        discriminator_loss: loss of the discriminator: "hinge", or "non_saturating" (logistic) as in MAGVIT-v2 and WeTok.
        lecam_decay: decay per optimizer step of the averages in `LeCAM`.
        start: first optimizer step with GAN losses. Before it, all three losses are 0.
        adaptive: multiply the weight of the adversarial loss by `adaptive_weight`, so that its gradient at the decoder's
            last layer is as large as the gradient of the reconstruction losses (VQGAN, arXiv 2012.09841, eq. 7).
        learning_rate: learning rate of the discriminator; None: the learning rate of the tokenizer.

    Raises:
        SmaltiError: the discriminator takes a different number of channels than this loss provides.
    """

    loss_names: ClassVar[tuple[str, ...]] = ("adversarial", "discriminator", "lecam")
    """Names of the losses that `generator_loss` (the first) and `forward` (the others) compute."""
    in_channels: ClassVar[int] = 3
    """Number of input channels of the discriminator."""

    def __init__(
        self,
        discriminator: Discriminator | None = None,
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
        in_channels = getattr(discriminator, "in_channels", self.in_channels)
        if in_channels != self.in_channels:
            raise SmaltiError(
                f"{type(self).__name__} provides {self.in_channels} channels, but its discriminator takes "
                f"{in_channels}: set the discriminator's in_channels to {self.in_channels} in the recipe."
            )
        self.discriminator = discriminator
        self.lecam = LeCAM(lecam_decay)
        self.generator_loss_kind: GANLossKind = generator_loss
        self.discriminator_loss_kind: GANLossKind = discriminator_loss
        self.start = start
        self.adaptive = adaptive
        self.learning_rate = learning_rate

    def generator_loss(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Compute the scalar `adversarial` loss. Its gradient reaches the reconstruction but not the discriminator.

        The discriminator stays in training mode: batch norm uses the statistics of the batch, and spectral norm runs one
        step of power iteration, which improves the estimate that `forward` uses. Two alternating optimizer steps would do
        the same.

        Args:
            reconstruction: pixels.
            original: pixels of the same shape.
        """
        # A graph that is built while parameters do not require gradients gives them none. `forward` needs their gradients.
        parameters = [p for p in self.discriminator.parameters() if p.requires_grad]
        for p in parameters:
            p.requires_grad_(False)
        try:
            fake = self._fake_logits(reconstruction, original)
        finally:
            for p in parameters:
                p.requires_grad_(True)
        return generator_loss(fake, self.generator_loss_kind)

    def forward(self, reconstruction: Tensor, original: Tensor) -> dict[str, Tensor]:
        """Compute the discriminator's losses, `discriminator` and `lecam`. Their gradients do not reach the tokenizer.

        Args:
            reconstruction: pixels; detached from their graph here.
            original: pixels of the same shape.

        Returns:
            Unweighted scalars by name.
        """
        real, fake = self._real_and_fake_logits(reconstruction.detach(), original)
        return {
            "discriminator": discriminator_loss(real, fake, self.discriminator_loss_kind),
            "lecam": self.lecam(real, fake),
        }

    def on_optimizer_step(self) -> None:
        """Update what changes once per optimizer step: the averages of LeCAM. Call it on all ranks."""
        self.lecam.update()

    def _fake_logits(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the float32 logits of the reconstruction being an original."""
        # One dtype and one memory layout for both inputs, because a compiled discriminator has a graph for each.
        return self.discriminator(reconstruction.to(original.dtype).contiguous()).float()

    def _real_and_fake_logits(self, reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """Return the float32 logits of the original being an original, and of the reconstruction being an original."""
        return self.discriminator(original).float(), self._fake_logits(reconstruction, original)


class ReconstructionGANLoss(GANLoss):
    """A reconstruction GAN (LTX-Video, arXiv 2501.00103): the discriminator sees both and decides which is the original.

    Original and reconstruction are concatenated along channels, in an order that is drawn at random for each sample. Seeing
    both lets the discriminator focus on what the reconstruction changes. Let d be the discriminator's logit for "the first
    is the original", and s = 1 if it is, else -1. The logit of the original is s d, the logit of the reconstruction is
    -s d. The losses are computed from these logits as in `GANLoss`.

    The arguments are the same as for `GANLoss`, but the discriminator takes 6 channels; None:
    `PatchDiscriminator(in_channels=6)`.
    """

    in_channels: ClassVar[int] = 6

    def _fake_logits(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        original_first = torch.rand(len(original), device=original.device) < 0.5
        logits = self.discriminator(concatenate_pair(reconstruction, original, original_first)).float()
        # A discriminator that sees frames as images returns as many logits per sample as there are frames.
        sign = torch.where(original_first, 1.0, -1.0).repeat_interleave(len(logits) // len(original))
        return -logits * sign.view(-1, *[1] * (logits.ndim - 1))

    def _real_and_fake_logits(self, reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        fake = self._fake_logits(reconstruction, original)
        return -fake, fake


def concatenate_pair(reconstruction: Tensor, original: Tensor, original_first: Tensor) -> Tensor:
    """Concatenate reconstruction and original along channels to (B, 6, ...).

    Args:
        reconstruction: pixels.
        original: pixels of the same shape. Its dtype is the dtype of the result.
        original_first: (B,) bool, whether the original comes first, per sample.
    """
    reconstruction = reconstruction.to(original.dtype)
    both = torch.cat([original, reconstruction], dim=1), torch.cat([reconstruction, original], dim=1)
    return torch.where(original_first.view(-1, *[1] * (original.ndim - 1)), *both)
