"""Data of the tests of the linear start of video networks."""

import pytest
import torch

from smalti.data import Clips
from smalti.data.clip_transforms import VideoTrainingTransform


@pytest.fixture(scope="module")
def batches():
    """Clips for fitting, the first frames of other ones as images, and held-out clips."""
    transform = VideoTrainingTransform(frames=9, rate=25, size=32, scale=(0.3, 0.6))
    torch.manual_seed(0)
    clips = torch.stack([transform(Clips("train")[0]).pixels for _ in range(12)])
    return [clips[:4], clips[4:8], clips[4:8, :, 0]], clips[8:]
