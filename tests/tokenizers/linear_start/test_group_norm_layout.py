"""Components pass group norms unchanged, whatever the brightness and the contrast of an image are."""

import pytest
import torch
from torch import nn

from smalti.tokenizers.linear_start.group_norm_layout import GroupNormInput, group_norm_layout


@pytest.fixture
def components():
    torch.manual_seed(0)
    return torch.randn(16, 5, 8, 8) * torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1]).view(-1, 1, 1)


def expand(components):
    """Return how a norm is undone, and a convolution that computes its input from components."""
    layout = group_norm_layout(24, 3, 5)
    norm_input = GroupNormInput(layout, [components[:8], components[8:]])
    conv = nn.Conv2d(5, 24, 1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    norm_input.expand(conv)
    return norm_input, conv


@torch.no_grad()
def test_components_pass_a_group_norm(components):
    norm_input, conv = expand(components)
    norm = nn.GroupNorm(3, 24)
    norm_input.undo(norm)
    y = norm(conv(components))
    torch.testing.assert_close(y[:, norm_input.positive], components, rtol=0.005, atol=1e-5)  # (energy share)^2 / 2
    negative = norm_input.signed[5:]
    torch.testing.assert_close(y[:, negative], -y[:, norm_input.positive])
    used = norm_input.signed.tolist()
    assert float(y[:, [i for i in range(24) if i not in used]].abs().max()) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [lambda x: x + 1.0, lambda x: 3 * x, lambda x: 0 * x], ids=["bright", "contrast", "flat"]
)
def test_brightness_and_contrast_survive(components, change):
    norm_input, conv = expand(components)
    norm = nn.GroupNorm(3, 24)
    norm_input.undo(norm)
    changed = change(components)
    torch.testing.assert_close(norm(conv(changed))[:, norm_input.positive], changed, rtol=0.02, atol=1e-5)


@torch.no_grad()
def test_constants_get_a_scale_of_their_own(components):
    norm_input, conv = expand(components)
    norm = nn.GroupNorm(3, 24)
    norm.weight.copy_(norm_input.scale(constant=1.0))
    y = norm(conv(components))
    torch.testing.assert_close(y[:, norm_input.positive], components, rtol=0.005, atol=1e-5)
    torch.testing.assert_close(y[:, norm_input.one], torch.ones(16, 8, 8), rtol=0.005, atol=0)


@torch.no_grad()
def test_a_convolution_without_bias_takes_the_constant_from_a_channel(components):
    norm_input, with_bias = expand(components)
    conv = nn.Conv2d(6, 24, 1, bias=False)
    conv.weight.zero_()
    conv.weight[:5, 1:] = torch.eye(5)[..., None, None]
    norm_input.expand(conv, one=0)
    ones = torch.ones(16, 1, 8, 8)
    torch.testing.assert_close(conv(torch.cat([ones, components], dim=1)), with_bias(components))


@pytest.mark.parametrize(("width", "groups", "count"), [(32, 8, 8), (24, 3, 9), (20, 4, 4), (64, 1, 31)])
def test_a_layout_carries_as_many_components_as_fit(width, groups, count):
    layout = group_norm_layout(width, groups, 100)
    assert layout.matrix.shape == (width, count)
    assert torch.equal(layout.matrix.sum(0), torch.zeros(count))
    assert torch.equal(layout.constant.unflatten(0, (groups, -1)).sum(1), torch.zeros(groups))
    assert not bool((layout.matrix != 0).any(1).logical_and(layout.constant != 0).any())


@pytest.mark.parametrize(("width", "groups"), [(32, 32), (32, 16), (96, 32), (8, 2), (32, None)])
def test_small_groups_have_no_room(width, groups):
    assert group_norm_layout(width, groups, 48) is None
