"""Augmentations of latents between encoder and decoder, which make latents easier to model for a generator.

Each derives from `LatentAugmentation`. A recipe lists any number of them under `model.latent_augmentations`.
"""

from smalti.trainers.latent_augmentations.base import LatentAugmentation
from smalti.trainers.latent_augmentations.denoising import LatentDenoising
from smalti.trainers.latent_augmentations.equivariance import LatentEquivariance

__all__ = ["LatentAugmentation", "LatentDenoising", "LatentEquivariance"]
