"""Binary spherical quantization: unit codewords, entropies that factor into bits, and many bits per token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import BSQ


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 62), groups=st.integers(1, 3), data=st.data())
def test_ids_and_codewords_are_one_to_one(bits, groups, data):
    quantizer = BSQ(bits, groups).eval()
    ids = torch.tensor(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=groups, max_size=groups))).view(
        1, 1, -1
    )

    z = quantizer.lookup(ids)

    assert torch.equal(quantizer(z * 7).ids, ids)
    assert torch.equal(quantizer(z * 7).z, z)
    # Summed in float64, the only error is the rounding of 1 / sqrt(bits) to float32.
    norms = z.double().view(groups, bits).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=torch.finfo(torch.float32).eps, atol=0)


def test_losses_equal_the_dense_definition():
    bits, groups, temperature = 4, 2, 0.1
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 9, groups * bits, generator=generator, dtype=torch.float64).requires_grad_()
    x = h.view(18, groups, bits)
    x = x / x.norm(dim=-1, keepdim=True)
    signs = (torch.arange(2**bits).unsqueeze(-1) >> torch.arange(bits) & 1).double() * 2 - 1
    p = torch.softmax(2 * x @ (signs / bits**0.5).T / temperature, dim=-1)  # (tokens, groups, codewords)
    bit = (p.mean(dim=0).unsqueeze(-1) * (signs > 0)).sum(dim=1)  # (groups, bits): mean probability that a bit is set
    exact = torch.special.entr(p.mean(dim=0)).sum(dim=-1).mean()
    expected = {
        "token_entropy": torch.special.entr(p).sum(dim=-1).mean(),
        "codebook_entropy": (torch.special.entr(bit) + torch.special.entr(1 - bit)).sum(dim=-1).mean(),
        "commitment": (x - torch.where(x > 0, 1.0, -1.0) / bits**0.5).square().mean(),
    }

    losses = BSQ(bits, groups, temperature)(h).losses

    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-10, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(losses[name], h, retain_graph=True)[0],
            torch.autograd.grad(value, h, retain_graph=True)[0],
            rtol=1e-9,
            atol=1e-13,
        )
    assert losses["codebook_entropy"] > exact


def test_a_zero_vector_has_finite_gradients():
    h = torch.zeros(1, 2, 6, requires_grad=True)
    code = BSQ(6)(h)
    (code.z.sum() + sum(code.losses.values())).backward()
    assert code.ids.tolist() == [[[0], [0]]]
    assert h.grad.isfinite().all()


def test_62_bits_train_and_63_are_refused():
    h = torch.randn(2, 30, 62, generator=torch.Generator().manual_seed(0)).requires_grad_()
    code = BSQ(62)(h)
    sum(code.losses.values()).backward()
    assert h.grad.isfinite().all()
    assert code.ids.max() >= 2**32
    with pytest.raises(SmaltiError, match="up to 62 bits per token"):
        BSQ(63)


@pytest.mark.parametrize("bits", [64, 128, 256])
def test_bits_that_do_not_fit_into_one_id_are_cut_into_tokens(bits):
    h = torch.randn(1, 5, bits, generator=torch.Generator().manual_seed(0))
    whole = torch.where(h > 0, 1.0, -1.0) / bits**0.5
    with pytest.raises(SmaltiError, match="token_bits"):
        BSQ(bits)
    for token_bits in (8, 32):
        quantizer = BSQ(bits, token_bits=token_bits).eval()
        code = quantizer(h)
        assert (quantizer.codebook_size, quantizer.tokens_per_position) == (2**token_bits, bits // token_bits)
        assert quantizer.bits_per_position == bits
        torch.testing.assert_close(code.z, whole)
        assert torch.equal(quantizer.lookup(code.ids), code.z)
        joint = sum(int(value) << (token_bits * k) for k, value in enumerate(code.ids[0, 0]))
        assert joint == sum(int(bit) << i for i, bit in enumerate(h[0, 0] > 0))


def test_cutting_the_ids_does_not_change_the_losses():
    h = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    losses, cut = BSQ(12, 2)(h).losses, BSQ(12, 2, token_bits=4)(h).losses
    assert all(torch.equal(losses[name], cut[name]) for name in losses)
    with pytest.raises(SmaltiError, match="divide"):
        BSQ(12, token_bits=5)
