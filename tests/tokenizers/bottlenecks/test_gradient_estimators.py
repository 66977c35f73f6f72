"""Gradients through quantizers: exact values, and the gradient that each estimator promises."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ
from smalti.tokenizers.bottlenecks.gradient_estimators import estimate_gradient


def signs(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, 1.0, -1.0).to(x)


@pytest.mark.parametrize("estimator", ["straight_through", "clipped", "rotation"])
def test_values_are_exactly_the_codewords(estimator):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.equal(estimate_gradient(x, signs(x), estimator, limit=1.0), signs(x))


def test_clipped_gradients_are_zero_outside_of_the_limit():
    x = torch.tensor([-1.5, -0.5, 0.2, 1.2], requires_grad=True)
    estimate_gradient(x, signs(x), "clipped", limit=1.0).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_rotated_gradients_keep_their_angle_to_the_vector():
    """The angle between gradient and codeword is that between the propagated gradient and the vector."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 6, generator=generator, dtype=torch.float64).requires_grad_()
    gradient = torch.randn(32, 6, generator=generator, dtype=torch.float64)
    codewords = signs(x.detach())
    estimate_gradient(x, codewords, "rotation", limit=1.0).backward(gradient)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(x.grad, x.detach()), cosine(gradient, codewords), atol=1e-12, rtol=0)
    scale = codewords.norm(dim=-1) / x.detach().norm(dim=-1)
    torch.testing.assert_close(x.grad.norm(dim=-1), scale * gradient.norm(dim=-1), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("build", [GQ, BSQ])
def test_an_unknown_estimator_is_refused(build):
    with pytest.raises(SmaltiError, match="gradient 'exact'"):
        build(groups=2, bits=4, gradient="exact")


@pytest.mark.parametrize("quantizer", [GQ(groups=2, bits=4), FSQ([4, 4])])
def test_hardness_moves_what_the_decoder_sees_from_the_vector_to_its_codeword(quantizer):
    h = 0.3 * torch.randn(2, 5, quantizer.in_dim, generator=torch.Generator().manual_seed(2))
    h.requires_grad_()
    quantizer.train()
    hard = quantizer(h).z
    quantizer.hardness = 0.0
    soft = quantizer(h).z
    quantizer.hardness = 0.25
    torch.testing.assert_close(quantizer(h).z, soft + 0.25 * (hard - soft))
    (gradient,) = torch.autograd.grad(quantizer(h).z.sum(), h)
    assert (gradient > 0).all()
    quantizer.eval()
    assert torch.equal(quantizer(h).z, hard)
