"""Thermometer codes: affine functions of components, from whose signs a linear function restores the components."""

import pytest
import torch

from smalti.tokenizers.bottlenecks import BSQ, GQ
from smalti.tokenizers.bottlenecks.thermometer_code import thermometer_start
from smalti.tokenizers.linear_start.least_squares import NormalEquations


def normal_components(count):
    torch.manual_seed(0)
    return torch.randn(8192, count), 2.0 ** -torch.arange(float(count))


def unexplained(coefficients, variances, signs):
    """Return the share of the variance of the components that no linear function of the signs explains."""
    equations = NormalEquations(signs.shape[1], coefficients.shape[1], signs.device)
    equations.add(signs, coefficients * variances.sqrt())
    return equations.solve()[2]


def test_the_target_is_affine():
    code = thermometer_start(*normal_components(6), channels=16)
    a, b = torch.randn(2, 5, 6)
    torch.testing.assert_close(code.target((a + b) / 2), (code.target(a) + code.target(b)) / 2)
    assert not code.hidden[:, -1].any()


def test_a_linear_function_of_the_signs_restores_what_the_code_promises():
    coefficients, variances = normal_components(6)
    code = thermometer_start(coefficients, variances, channels=16)
    signs = torch.where(code.target(coefficients) > 0, 1.0, -1.0)
    assert abs(unexplained(coefficients, variances, signs) - code.lost) < 0.01


def test_more_signs_than_components_can_use_are_constant():
    code = thermometer_start(*normal_components(1), channels=20)
    target = code.target(torch.randn(5, 7, 1))
    assert target.shape == (5, 7, 20)
    assert (target[..., 15:] == 0).all()


@pytest.mark.parametrize("quantizer", [GQ(4, 4), BSQ(16, 4)], ids=["GQ", "BSQ"])
def test_few_hidden_units_give_a_thermometer_code_and_many_a_binary_code(quantizer):
    coefficients, variances = normal_components(6)
    codes = [quantizer.linear_start(coefficients, variances, hidden_units=n) for n in (0, 32, 400)]
    assert [code.readout is None for code in codes] == [True, True, False]
    assert codes[2].lost < 0.6 * codes[0].lost
