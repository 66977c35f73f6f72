"""Group-wise lookup-free quantization: order of bits, losses, memory, and agreement with the published code."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import GQ

PARITY = Path(__file__).parents[2] / "parity"


@settings(max_examples=60, deadline=None)
@given(groups=st.integers(1, 9), bits=st.integers(1, 24), data=st.data())
def test_ids_and_codewords_are_one_to_one(groups, bits, data):
    quantizer = GQ(groups, bits).eval()
    ids = torch.tensor(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=groups, max_size=groups))).view(
        1, 1, -1
    )

    code = quantizer(quantizer.lookup(ids) * 0.3)

    assert torch.equal(code.ids, ids)
    assert torch.equal(code.z, quantizer.lookup(ids))


def test_channels_are_group_major_and_the_first_is_the_lowest_bit():
    h = torch.tensor([[[0.1, -0.1, -0.1, -0.1, 2.0, 3.0]]])
    code = GQ(2, 3)(h)
    assert code.ids.tolist() == [[[1, 6]]]
    assert code.z.tolist() == [[[1, -1, -1, -1, 1, 1]]]


def test_the_bit_of_a_zero_is_not_set():
    assert GQ(1, 2)(torch.zeros(1, 1, 2)).ids.item() == 0


def test_gradients_are_straight_through():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 5, 8, generator=generator).requires_grad_()
    weights = torch.randn(2, 5, 8, generator=generator)
    (GQ(2, 4)(h).z * weights).sum().backward()
    assert torch.equal(h.grad, weights)


@pytest.mark.parametrize(
    ("groups", "bits", "codewords"), [(4, 8, 2**32), (8, 8, 2**64), (3, 22, 2**66)], ids=["2^32", "2^64", "2^66"]
)
def test_a_codebook_too_large_to_enumerate(groups, bits, codewords):
    quantizer = GQ(groups, bits).eval()
    assert quantizer.codebook_size**groups == codewords
    assert quantizer.bits_per_position == groups * bits
    code = quantizer(torch.randn(2, 50, groups * bits, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(quantizer.lookup(code.ids), code.z)


def test_only_the_per_group_entropy_detects_collapsed_groups():
    # Four groups, each of which uses all codewords of its own quarter of the codebook equally often.
    ids = torch.arange(64).view(1, 64, 1) + torch.arange(4) * 64
    h = GQ(4, 8).lookup(ids).double()
    entropies = {kind: GQ(4, 8, kind)(h).losses["codebook_entropy"].item() for kind in ("pooled", "per_group")}
    assert entropies["pooled"] == pytest.approx(8 * math.log(2), rel=1e-12)
    assert entropies["per_group"] == pytest.approx(6 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("kind", ["per_group", "pooled"])
def test_losses_equal_the_dense_definition(kind):
    groups, bits, temperature = 3, 4, 0.05
    generator = torch.Generator().manual_seed(0)
    h = (torch.randn(2, 7, groups * bits, generator=generator, dtype=torch.float64) * 0.05).requires_grad_()
    codewords = (torch.arange(2**bits).unsqueeze(-1) >> torch.arange(bits) & 1).double() * 2 - 1
    x = h.view(14, groups, bits)
    p = torch.softmax(2 * x @ codewords.T / temperature, dim=-1)
    mean = p.mean(dim=0) if kind == "per_group" else p.mean(dim=(0, 1)).unsqueeze(0)
    expected = {
        "token_entropy": torch.special.entr(p).sum(dim=-1).mean(),
        "codebook_entropy": torch.special.entr(mean).sum(dim=-1).mean(),
        "commitment": (x - torch.where(x > 0, 1.0, -1.0)).square().mean(),
    }

    losses = GQ(groups, bits, kind, temperature)(h).losses

    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-10, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(losses[name], h, retain_graph=True)[0],
            torch.autograd.grad(value, h, retain_graph=True)[0],
            rtol=1e-9,
            atol=1e-13,
        )


@pytest.mark.parametrize(
    ("name", "groups", "bits"),
    [
        ("wetok_stage1", 2, 4),
        ("wetok_stage2_generative", 2, 4),
        ("uniwetok_bitdance", 16, 8),
        ("uniwetok_hybrid", 16, 8),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_the_published_code(name, groups, bits, dtype):
    published = load_file(PARITY / f"{name}.safetensors")
    latent = published["latent"].to(dtype).requires_grad_()  # (B, C, h, w)

    code = GQ(groups, bits, codebook_entropy="pooled", log_offset=1e-5)(latent.flatten(2).mT)

    assert torch.equal(code.ids.view_as(published["indices"]), published["indices"])
    quantized = published["quantized"] if "quantized" in published else 2.0 * published["bits"] - 1
    assert torch.equal(code.z.mT.view_as(latent), quantized.to(dtype))
    entropy_loss = code.losses["token_entropy"] - code.losses["codebook_entropy"]
    for value, key in (
        (code.losses["token_entropy"], "per_sample_entropy"),
        (code.losses["codebook_entropy"], "codebook_entropy"),
        (code.losses["commitment"], "commitment"),
        (entropy_loss, "entropy_loss"),
    ):
        # The published values are float32 sums over tokens and codewords.
        torch.testing.assert_close(value, published[key].to(dtype), rtol=2e-5, atol=0)
    entropy_loss.backward()
    error = (latent.grad - published["entropy_loss_grad"]).abs().max()
    # Logits 4 x / T are in the hundreds: their float32 rounding errors of 1e-5 are relative errors of the probabilities.
    assert error <= 1e-4 * published["entropy_loss_grad"].abs().max()


class LargestResult(TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.numel = max(
            [self.numel, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))]
        )
        return result


@pytest.mark.parametrize("kind", ["per_group", "pooled"])
def test_no_table_of_all_tokens_and_codewords_is_allocated(kind):
    h = (torch.randn(1, 4096, 18, generator=torch.Generator().manual_seed(0)) * 0.02).requires_grad_()
    with LargestResult() as largest:
        sum(GQ(1, 18, kind)(h).losses.values()).backward()
    assert largest.numel == 4096 * 2**9  # a table for half of the bits; a table for all bits is 512 times larger
    assert h.grad.isfinite().all()


def test_22_bits_in_one_group_train():
    h = (torch.randn(1, 64, 22, generator=torch.Generator().manual_seed(0)) * 0.5).requires_grad_()
    losses = GQ(1, 22)(h).losses
    assert 0 < losses["codebook_entropy"].item() <= math.log(64) + losses["token_entropy"].item()
    sum(losses.values()).backward()
    assert h.grad.isfinite().all()
    assert h.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 1, "bits": 25}, "BSQ"),
        ({"groups": 0, "bits": 8}, "groups=0"),
        ({"groups": 1, "bits": 0}, "bits=0"),
        ({"groups": 1, "bits": 8, "temperature": 0.0}, "temperature=0"),
        ({"groups": 1, "bits": 8, "codebook_entropy": "summed"}, "'summed'"),
        ({"groups": 1, "bits": 8, "log_offset": -1.0}, "log_offset"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(SmaltiError, match=message):
        GQ(**arguments)
