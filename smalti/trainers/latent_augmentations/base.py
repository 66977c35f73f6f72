"""Base class of the augmentations of latents."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from smalti.types import Latents


class LatentAugmentation(nn.Module, ABC):
    """Base class of augmentations of latents in training, for `model.latent_augmentations` of a recipe.

        pixels -> encoder -> bottleneck -> latents -> augmentation -> decoder -> all losses, against the target

    An augmentation is a training task and not a loss: every loss of the recipe, also perceptual and GAN losses, compares
    the reconstruction from augmented latents with the target. The losses of the bottleneck and `LatentLoss` see the latents
    before augmentation. Validation does not augment. Several augmentations are applied one after another.

    A step draws its random numbers from torch's global generators, which training seeds.
    """

    @abstractmethod
    def forward(self, latents: Latents, target: Tensor, stride: tuple[int, int, int]) -> tuple[Latents, Tensor]:
        """Return the latents to decode, and the pixels that their reconstruction is compared with.

        Args:
            latents: latents of the tokenizer, of images or clips. Gradients pass through z to the encoder.
            target: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            stride: pixels per latent position along (T, H, W), see `Encoder.stride`.
        """
