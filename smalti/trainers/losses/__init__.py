"""Losses between a reconstruction and its original.

Each derives from `ReconstructionLoss`. A recipe lists any number of them under `model.losses` and their weights under
`model.weights`.
"""

from smalti.trainers.losses.base import ReconstructionLoss
from smalti.trainers.losses.distillation import DistillationLoss
from smalti.trainers.losses.perceptual import PerceptualLoss
from smalti.trainers.losses.wavelet import WaveletLoss

__all__ = ["DistillationLoss", "PerceptualLoss", "ReconstructionLoss", "WaveletLoss"]
