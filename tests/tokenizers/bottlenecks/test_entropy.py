"""The split-half entropies against the dense table that they avoid, in float64."""

import math

import pytest
import torch

from smalti.distributed import mean_over_ranks
from smalti.tokenizers.bottlenecks.entropy import codebook_entropy, mean_distribution, token_entropy


def dense(logits):
    """Soft codes (..., N, 2^bits) of logits 4 x / T, from their definition: softmax over all codes of 2 x.c / T."""
    bits = logits.shape[-1]
    codes = (torch.arange(2**bits).unsqueeze(-1) >> torch.arange(bits) & 1).to(logits) * 2 - 1
    return torch.softmax(logits @ codes.T / 2, dim=-1)


def logits_of(*shape, scale=4.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()


def gradient_of(value, at):
    return torch.autograd.grad(value, at, retain_graph=True)[0]


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_values_and_gradients_are_those_of_the_dense_table(bits):
    logits = logits_of(3, 17, bits)
    table = dense(logits)
    expected = {
        "token": torch.special.entr(table).sum(dim=-1),
        "mean": table.mean(dim=-2),
        "codebook": torch.special.entr(table.mean(dim=-2)).sum(dim=-1),
    }
    actual = {
        "token": token_entropy(logits),
        "mean": mean_distribution(logits),
        "codebook": codebook_entropy(mean_distribution(logits)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-14)
        weights = torch.rand_like(value)
        torch.testing.assert_close(
            gradient_of((actual[name] * weights).sum(), logits),
            gradient_of((value * weights).sum(), logits),
            rtol=1e-9,
            atol=1e-14,
        )


@pytest.mark.parametrize("bits", [1, 4, 5])
def test_the_handwritten_gradient_passes_gradcheck(bits):
    assert torch.autograd.gradcheck(mean_distribution, (logits_of(2, 6, bits, scale=1.0),))


@pytest.mark.parametrize("scale", [1.0, 10.0, 400.0])
def test_float32_agrees_with_float64_at_sixteen_bits(scale):
    exact, single = logits_of(64, 16, scale=scale), logits_of(64, 16, scale=scale, dtype=torch.float32)
    for loss in (lambda at: token_entropy(at).mean(), lambda at: codebook_entropy(mean_distribution(at))):
        expected, actual = loss(exact), loss(single)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
        reference = gradient_of(expected, exact)
        error = (gradient_of(actual, single) - reference).abs().max()
        assert error <= 2e-5 * reference.abs().max()


def test_a_token_entropy_is_accurate_where_the_sigmoid_saturates():
    values = [0.0, 1e-3, 5.0, -12.0, 20.0, -40.0, 80.0]
    single, exact = torch.tensor(values).unsqueeze(-1), torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(token_entropy(single).double(), token_entropy(exact), rtol=1e-5, atol=0)
    assert token_entropy(torch.tensor([[1e4, -1e4]])).item() == 0


def test_a_distribution_with_zeros_has_finite_gradients():
    logits = torch.full((4, 10), 300.0, requires_grad=True)  # every token on one code: the others underflow to 0
    distribution = mean_distribution(logits)
    assert (distribution == 0).sum() == 2**10 - 1
    entropy = codebook_entropy(distribution)
    assert entropy.item() == 0
    assert gradient_of(entropy, logits).isfinite().all()


def test_the_published_offset_caps_the_codebook_entropy():
    uniform = torch.full((2**18,), 2.0**-18)
    assert codebook_entropy(uniform).item() == pytest.approx(18 * math.log(2), rel=1e-5)
    assert codebook_entropy(uniform, log_offset=1e-5).item() < -math.log(1e-5)


def test_one_process_is_its_own_mean():
    value = torch.ones(3)
    assert mean_over_ranks(value)[0] is value


def test_autocast_does_not_reach_the_products():
    logits = logits_of(32, 6, dtype=torch.float32)
    expected = mean_distribution(logits)
    expected_gradient = gradient_of(codebook_entropy(expected), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = mean_distribution(logits)
        gradient = gradient_of(codebook_entropy(actual), logits)
    assert torch.equal(actual, expected)
    assert torch.equal(gradient, expected_gradient)
