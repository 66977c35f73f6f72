"""Losses that a recipe adds.

Each derives from `ReconstructionLoss` (reconstruction and original) or from `LatentLoss` (latents and original). A recipe
lists any number of them under `model.losses` and their weights under `model.weights`.
"""

from smalti.trainers.losses.base import LatentLoss, Loss, ReconstructionLoss
from smalti.trainers.losses.distillation import DistillationLoss
from smalti.trainers.losses.latent_alignment import LatentAlignment
from smalti.trainers.losses.latent_restoration import LatentRestoration
from smalti.trainers.losses.perceptual import PerceptualLoss
from smalti.trainers.losses.wavelet import WaveletLoss

__all__ = [
    "DistillationLoss",
    "LatentAlignment",
    "LatentLoss",
    "LatentRestoration",
    "Loss",
    "PerceptualLoss",
    "ReconstructionLoss",
    "WaveletLoss",
]
