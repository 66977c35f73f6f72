"""The factorized entropies equal the entropies of the dense table, in value and gradient."""

import math

import pytest
import torch

from smalti.tokenizers.bottlenecks.entropy import codebook_entropy, mean_distribution, token_entropy

EPS = torch.finfo(torch.float32).eps


def dense_assignment(logits):
    """Return the soft assignments (..., N, 2^bits) by definition: softmax over all codewords of 2 x.c / T."""
    bits = logits.shape[-1]
    codewords = (torch.arange(2**bits).unsqueeze(-1) >> torch.arange(bits) & 1).to(logits) * 2 - 1
    return torch.softmax(logits @ codewords.T / 2, dim=-1)


def random_logits(*shape, scale=4.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()


def gradient(value, x):
    return torch.autograd.grad(value, x, retain_graph=True)[0]


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_values_and_gradients_equal_the_dense_table(bits):
    logits = random_logits(3, 17, bits)
    table = dense_assignment(logits)
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
    generator = torch.Generator().manual_seed(0)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-14)
        weights = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(
            gradient((actual[name] * weights).sum(), logits),
            gradient((value * weights).sum(), logits),
            rtol=1e-9,
            atol=1e-14,
        )


@pytest.mark.parametrize("bits", [1, 4, 5])
def test_the_handwritten_gradient_passes_gradcheck(bits):
    assert torch.autograd.gradcheck(mean_distribution, (random_logits(2, 6, bits, scale=1.0),))


@pytest.mark.parametrize("scale", [1.0, 10.0, 400.0])
def test_float32_agrees_with_float64_at_16_bits(scale):
    exact, single = random_logits(64, 16, scale=scale), random_logits(64, 16, scale=scale, dtype=torch.float32)
    for loss in (lambda at: token_entropy(at).mean(), lambda at: codebook_entropy(mean_distribution(at))):
        expected, actual = loss(exact), loss(single)
        # A probability is a product of 16 factors, each a few rounding errors off.
        torch.testing.assert_close(actual.double(), expected, rtol=16 * 8 * EPS, atol=16 * EPS)
        reference = gradient(expected, exact)
        error = (gradient(actual, single) - reference).abs().max()
        assert error <= 2 * 16 * 8 * EPS * reference.abs().max()


def test_the_token_entropy_is_accurate_where_the_sigmoid_saturates():
    values = [0.0, 1e-3, 5.0, -12.0, 20.0, -40.0, 80.0]
    single, exact = torch.tensor(values).unsqueeze(-1), torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    # 1e-3 is not exact in float32; exp and log1p are a few rounding errors off.
    torch.testing.assert_close(token_entropy(single).double(), token_entropy(exact), rtol=64 * EPS, atol=0)
    assert token_entropy(torch.tensor([[1e4, -1e4]])).item() == 0


def test_a_distribution_with_zeros_has_finite_gradients():
    logits = torch.full((4, 10), 300.0, requires_grad=True)  # all tokens select one codeword; the others underflow to 0
    distribution = mean_distribution(logits)
    assert (distribution == 0).sum() == 2**10 - 1
    entropy = codebook_entropy(distribution)
    assert entropy.item() == 0
    assert gradient(entropy, logits).isfinite().all()


def test_the_published_offset_limits_the_codebook_entropy():
    uniform = torch.full((2**18,), 2.0**-18, dtype=torch.float64)
    assert codebook_entropy(uniform).item() == pytest.approx(18 * math.log(2), rel=1e-12)
    assert codebook_entropy(uniform, log_offset=1e-5).item() < -math.log(1e-5)


def test_autocast_does_not_affect_the_products():
    logits = random_logits(32, 6, dtype=torch.float32)
    expected = mean_distribution(logits)
    expected_gradient = gradient(codebook_entropy(expected), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = mean_distribution(logits)
        actual_gradient = gradient(codebook_entropy(actual), logits)
    assert torch.equal(actual, expected)
    assert torch.equal(actual_gradient, expected_gradient)
