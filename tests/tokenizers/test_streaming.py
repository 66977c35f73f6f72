"""The default chunk: few large frames or many small ones, in multiples of the temporal stride."""

import pytest
import torch

from smalti.tokenizers.streaming import default_chunk


@pytest.mark.parametrize(
    ("stride", "size", "on_cpu", "on_gpu"),
    [
        ((1, 8, 8), (272, 640), 1, 4),  # one large frame
        ((1, 8, 8), (64, 64), 16, 16),
        ((4, 8, 8), (128, 128), 4, 4),
        ((8, 32, 32), (128, 128), 32, 32),  # few latent positions per frame
        ((8, 32, 32), (1080, 1920), 8, 8),
    ],
)
def test_the_default_chunk_depends_on_the_frame_size(stride, size, on_cpu, on_gpu):
    assert default_chunk(stride, size, torch.device("cpu")) == on_cpu
    assert default_chunk(stride, size, torch.device("cuda")) == on_gpu
