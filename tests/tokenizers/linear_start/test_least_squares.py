"""Least squares sets the weights that a convolution would need, for every kind of convolution."""

import pytest
import torch
from torch import nn

from smalti.tokenizers.linear_start.least_squares import NormalEquations, fit_convolution


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(3, 5, 3, padding=1),
        lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
        lambda: nn.Conv2d(3, 5, 1),
        lambda: nn.Conv3d(3, 5, 3, padding=(0, 1, 1)),
        lambda: nn.Conv3d(3, 5, 3, padding=(0, 1, 1), padding_mode="replicate"),
        lambda: nn.Conv3d(3, 5, (3, 1, 1), stride=(2, 1, 1)),
    ],
)
def test_a_convolution_is_recovered_from_its_inputs_and_outputs(build):
    torch.manual_seed(0)
    truth, fitted = build(), build()
    shape = (4, 3, 12, 12) if isinstance(truth, nn.Conv2d) else (4, 3, 7, 8, 8)
    inputs = [torch.randn(shape), torch.randn(shape)]
    with torch.no_grad():
        error = fit_convolution(fitted, inputs, [truth(x) for x in inputs], ridge=1e-9)
    assert error < 1e-6
    torch.testing.assert_close(
        fitted.weight, truth.weight, rtol=0, atol=1e-4
    )  # float32 sums over thousands of positions


def test_only_the_chosen_rows_and_channels_change():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, padding=1)
    before = conv.weight.clone()
    x, rows = torch.randn(4, 6, 16, 16), torch.tensor([1, 4])
    target = torch.stack([x[:, 2] - x[:, 3] + 1, 2 * x[:, 3]], dim=1)
    error = fit_convolution(conv, [x], [target], channels=torch.tensor([2, 3]), rows=rows)
    assert error < 1e-6
    others = [row for row in range(8) if row not in rows]
    assert torch.equal(conv.weight[others], before[others])
    expected = torch.zeros(2, 6, 3, 3)
    expected[0, 2, 1, 1], expected[0, 3, 1, 1], expected[1, 3, 1, 1] = 1, -1, 2
    torch.testing.assert_close(conv.weight[rows], expected, rtol=0, atol=1e-3)  # the ridge shrinks weights by 1e-4
    torch.testing.assert_close(conv.bias[rows], torch.tensor([1.0, 0.0]), rtol=0, atol=1e-3)


def test_the_error_is_the_unexplained_share_of_the_variance():
    torch.manual_seed(0)
    x, noise = torch.randn(20000, 2), torch.randn(20000, 1)
    equations = NormalEquations(2, 1, x.device)
    for part, extra in zip(x.split(5000), noise.split(5000), strict=True):
        equations.add(part, part[:, :1] + extra + 5)
    weights, bias, error = equations.solve()
    assert abs(error - 0.5) < 0.02
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0]], dtype=weights.dtype), rtol=0, atol=0.03)
    assert abs(float(bias) - 5) < 0.03
