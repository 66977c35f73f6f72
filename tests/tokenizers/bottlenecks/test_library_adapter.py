"""The adapters of vector-quantize-pytorch: nearest codewords, losses, learning, exact lookup, errors."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import VQ, ResidualFSQ, ResidualVQ, SimVQ

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_nearest(ids, x, codebook):
    """Check that the ids (B, N) select the nearest codewords of x (B, N, C), up to the float32 rounding of distances."""
    distances = torch.cdist(x.double(), codebook.double().expand(len(x), -1, -1))
    selected = distances.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    # The library computes squared distances as |x|^2 - 2 x.c + |c|^2, with rounding errors relative to these terms.
    error = 16 * EPS * (x.square().sum(-1).max() + codebook.square().sum(-1).max())
    assert (selected.square() <= distances.amin(dim=-1).square() + error).all()


def test_vq_selects_the_nearest_codeword_and_returns_its_distance():
    quantizer = VQ(4, 30)
    codebook = quantizer.inner.codebook.clone()  # in training mode, the moving average changes it
    h = torch.randn(2, 50, 4)

    code = quantizer(h)

    ids = code.ids.squeeze(-1)
    assert_nearest(ids, h, codebook)
    expected = (h - codebook[ids]).double().square().mean().float()
    torch.testing.assert_close(code.losses["commitment"], expected, rtol=64 * EPS, atol=0)  # a sum of 400 squares
    assert not torch.equal(quantizer.inner.codebook, codebook)


def test_vq_learns_clusters():
    centers = torch.randn(8, 3) * 5
    quantizer = VQ(3, 8, ema_decay=0.5, kmeans_init=True)
    for _ in range(10):
        h = centers[torch.randint(8, (1, 400))] + 0.01 * torch.randn(1, 400, 3)
        error = quantizer(h).losses["commitment"].item()
    assert error < 0.1 * centers.var().item()


def test_simvq_learns_its_codebook_by_gradient():
    quantizer = SimVQ(4, 20, input_weight=0.5)
    h = torch.randn(1, 60, 4, requires_grad=True)
    code = quantizer(h)
    code.losses["commitment"].backward()
    difference = (h - quantizer.dequantize(code.ids)).detach()
    expected = 1.5 * difference.double().square().mean().float()
    torch.testing.assert_close(code.losses["commitment"].detach(), expected, rtol=64 * EPS, atol=0)
    torch.testing.assert_close(h.grad, 0.5 * 2 * difference / h.numel(), rtol=64 * EPS, atol=8 * EPS / h.numel())
    assert quantizer.inner.code_transform.weight.grad.abs().max() > 0


def test_residual_vq_quantizes_the_residual():
    quantizer = ResidualVQ(4, 3, 30)
    codebooks = quantizer.inner.codebooks.clone()
    residual = h = torch.randn(2, 50, 4)

    code = quantizer(h)

    commitment = 0.0
    for ids, codebook in zip(code.ids.unbind(-1), codebooks, strict=True):
        assert_nearest(ids, residual, codebook)
        commitment += (residual - codebook[ids]).double().square().mean().float()
        residual = residual - codebook[ids]
    torch.testing.assert_close(code.losses["commitment"], commitment, rtol=64 * EPS, atol=0)
    torch.testing.assert_close(code.z, h - residual, rtol=0, atol=8 * EPS * h.abs().max().item())


@pytest.mark.parametrize("levels", [[8, 5, 5], [2, 2, 2, 2], [1024, 1024]], ids=str)
def test_residual_fsq_approaches_its_input(levels):
    h = torch.rand(2, 200, len(levels)) - 0.5
    errors = []
    for num_quantizers in (1, 3):
        quantizer = ResidualFSQ(levels, num_quantizers).eval()
        code = quantizer(h)
        assert code.ids.min() >= 0
        assert code.ids.max() < quantizer.codebook_size
        # The forward of the library sums up to three codewords in [-1, 1] in another order.
        torch.testing.assert_close(code.z, quantizer.inner(h)[0], rtol=0, atol=16 * EPS)
        clamp = 1 + 1 / (torch.tensor(levels) - 1)
        errors.append((code.z - (h / clamp).tanh() * clamp).abs().max().item())  # the library's soft clamp of its input
    assert errors[1] < max(0.5 * errors[0], 1e-6)


@pytest.mark.parametrize(
    "build",
    [lambda: VQ(3, 9), lambda: VQ(3, 9, cosine=True), lambda: SimVQ(3, 9), lambda: ResidualVQ(3, 2, 9)],
    ids=["VQ", "VQ_cosine", "SimVQ", "ResidualVQ"],
)
def test_lookup_does_not_depend_on_the_other_ids(build):
    quantizer = build()
    ids = torch.randint(0, 9, (4, 33, quantizer.tokens_per_position))
    assert torch.equal(quantizer.lookup(ids)[2:3, 5:6], quantizer.lookup(ids[2:3, 5:6]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VQ(0, 8), "dim"),
        (lambda: SimVQ(4, 0), "codebook_size"),
        (lambda: ResidualVQ(4, 0, 8), "num_quantizers"),
        (lambda: ResidualFSQ([8, 1], 2), "levels"),
        (lambda: ResidualFSQ([16] * 8, 2), "use FSQ"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(SmaltiError, match=message):
        build()
