"""Winograd's convolution computes what Conv3d computes, for any size and in blocks of any size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.tokenizers.layers import convolution, winograd


@pytest.mark.parametrize("max_elements", [1, 2000, 2**21])
@pytest.mark.parametrize(("size", "taps"), [((5, 7, 6), 3), ((1, 4, 5), 1), ((4, 3, 1), 3)])
def test_it_equals_conv3d(size, taps, max_elements, monkeypatch):
    monkeypatch.setattr(winograd, "_MAX_ELEMENTS", max_elements)
    torch.manual_seed(0)
    x = torch.randn(2, 6, size[0] + taps - 1, *size[1:], dtype=torch.float64)
    weight, bias = torch.randn(5, 6, taps, 3, 3).double(), torch.randn(5).double()
    expected = F.conv3d(x, weight, bias, padding=(0, 1, 1))
    frames = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 4, 1)
    result = winograd.winograd_conv(frames, weight, bias).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("size", [(1, 64, 4, 24, 24), (2, 64, 3, 2, 2), (1, 64, 3, 20, 20)])
def test_convolve_without_gradients_equals_conv3d(size, padding):
    torch.manual_seed(0)
    conv = nn.Conv3d(64, 64, 3, padding=(0, 1, 1), padding_mode=padding).requires_grad_(False)
    x = torch.randn(size)
    expected = conv.double()(x.double())
    assert (convolution.convolve(conv.float(), x).double() - expected).abs().max() < 1e-4
