"""The fast path of 3-D convolutions computes the same as PyTorch's Conv3d."""

import pytest
import torch
from torch import nn

from smalti.tokenizers.layers.convolution import convolve


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (3, 1, "zeros"),
        (3, 1, "replicate"),
        (3, (1, 2, 2), "replicate"),
        (3, 2, "zeros"),
        ((3, 1, 1), (2, 1, 1), "zeros"),
        (1, 1, "zeros"),
    ],
)
@pytest.mark.parametrize("size", [(1, 4, 3, 6, 8), (1, 4, 7, 5, 4), (2, 4, 5, 4, 4), (1, 4, 3, 2000, 1)])
def test_convolve_equals_conv3d(kernel, stride, padding, size):
    torch.manual_seed(0)
    spatial = 0 if kernel in (1, (3, 1, 1)) else 1
    conv = nn.Conv3d(4, 5, kernel, stride, padding=(0, spatial, spatial), padding_mode=padding).double()
    x = torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(convolve(conv, x), conv(x), rtol=0, atol=1e-12)
