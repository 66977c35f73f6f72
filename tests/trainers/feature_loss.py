"""A loss as a user would write it, outside the package."""

import torch
from torch import nn

from smalti.trainers import ReconstructionLoss


class FeatureLoss(ReconstructionLoss):
    """Mean absolute error of the features of a convolution. Its weights are registered and not frozen."""

    def __init__(self, channels: int = 4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.conv.weight.data = torch.randn(self.conv.weight.shape, generator=generator)

    def forward(self, reconstruction, original):
        assert reconstruction.shape == original.shape
        return (self.conv(reconstruction) - self.conv(original)).abs().mean()
