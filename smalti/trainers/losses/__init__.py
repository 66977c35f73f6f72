"""Losses between a reconstruction and its original.

Each is a module that is called as `loss(reconstruction, original)` with float32 pixels (B, 3, H, W) or (B, 3, T, H, W) in
[-1, 1] and returns an unweighted scalar. A recipe lists any number of losses under `model.losses` and their weights under
`model.weights`.
"""

from smalti.trainers.losses.perceptual import PerceptualLoss
from smalti.trainers.losses.wavelet import WaveletLoss

__all__ = ["PerceptualLoss", "WaveletLoss"]
