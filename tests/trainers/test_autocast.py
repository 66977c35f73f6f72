"""Modules that compute in float32 inside of autocast."""

import pytest
import torch
from torch import nn

from smalti.trainers.autocast import disable_autocast


def test_only_this_module_computes_in_float32():
    torch.manual_seed(0)
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    x = torch.randn(4, 8)
    expected = first(x)
    disable_autocast(first)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(first(x), expected)
        assert torch.equal(first(x.bfloat16()), first(x.bfloat16().float()))
        assert second(x).dtype == torch.bfloat16


def test_autocast_is_restored_after_an_error():
    module = nn.Linear(8, 8)
    disable_autocast(module)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            module(torch.zeros(2, 3))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
