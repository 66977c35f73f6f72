"""The adapters over vector-quantize-pytorch: what they return, learn, and refuse."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import VQ, ResidualFSQ, ResidualVQ, SimVQ


def test_vq_gives_the_nearest_code_and_its_distance():
    quantizer = VQ(4, 30)
    book = quantizer.inner.codebook.clone()  # the moving average changes it in training mode
    h = torch.randn(2, 50, 4)

    code = quantizer(h)

    nearest = torch.cdist(h, book.expand(2, -1, -1)).argmin(dim=-1)
    assert torch.equal(code.ids.squeeze(-1), nearest)
    torch.testing.assert_close(code.losses["commitment"], (h - book[nearest]).square().mean())
    assert not torch.equal(quantizer.inner.codebook, book)


def test_vq_learns_clusters():
    torch.manual_seed(0)
    centres = torch.randn(8, 3) * 5
    quantizer = VQ(3, 8, ema_decay=0.5, kmeans_init=True)
    for _ in range(10):
        h = centres[torch.randint(8, (1, 400))] + 0.01 * torch.randn(1, 400, 3)
        error = quantizer(h).losses["commitment"].item()
    assert error < 0.1 * centres.var().item()


def test_simvq_learns_its_codebook_by_gradient():
    quantizer = SimVQ(4, 20, input_weight=0.5)
    h = torch.randn(1, 60, 4, requires_grad=True)
    code = quantizer(h)
    code.losses["commitment"].backward()
    selected = quantizer.dequantize(code.ids).detach()
    torch.testing.assert_close(code.losses["commitment"].detach(), 1.5 * (h - selected).square().mean().detach())
    torch.testing.assert_close(h.grad, 0.5 * 2 * (h - selected).detach() / h.numel())
    assert quantizer.inner.code_transform.weight.grad.abs().max() > 0


def test_residual_vq_codes_what_was_left_over():
    quantizer = ResidualVQ(4, 3, 30)
    books = quantizer.inner.codebooks.clone()
    residual = h = torch.randn(2, 50, 4)

    code = quantizer(h)

    commitment = 0.0
    for i, book in enumerate(books):
        nearest = torch.cdist(residual, book.expand(2, -1, -1)).argmin(dim=-1)
        assert torch.equal(code.ids[..., i], nearest)
        commitment += (residual - book[nearest]).square().mean()
        residual = residual - book[nearest]
    torch.testing.assert_close(code.losses["commitment"], commitment)
    torch.testing.assert_close(code.z, h - residual)


@pytest.mark.parametrize("levels", [[8, 5, 5], [2, 2, 2, 2], [1024, 1024]], ids=str)
def test_residual_fsq_approaches_its_input(levels):
    h = torch.rand(2, 200, len(levels)) - 0.5
    errors = []
    for num_quantizers in (1, 3):
        quantizer = ResidualFSQ(levels, num_quantizers).eval()
        code = quantizer(h)
        assert code.ids.min() >= 0
        assert code.ids.max() < quantizer.codebook_size
        torch.testing.assert_close(code.z, quantizer.inner(h)[0], rtol=0, atol=1e-5)
        clamp = 1 + 1 / (torch.tensor(levels) - 1)
        errors.append((code.z - (h / clamp).tanh() * clamp).abs().max().item())  # the library's soft clamp of its input
    assert errors[1] < max(0.5 * errors[0], 1e-6)


@pytest.mark.parametrize(
    "quantizer", [VQ(3, 9), VQ(3, 9, cosine=True), SimVQ(3, 9), ResidualVQ(3, 2, 9)], ids=lambda q: type(q).__name__
)
def test_lookup_does_not_depend_on_what_else_is_looked_up(quantizer):
    ids = torch.randint(0, 9, (4, 33, quantizer.tokens_per_position))
    assert torch.equal(quantizer.lookup(ids)[2:3, 5:6], quantizer.lookup(ids[2:3, 5:6]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VQ(0, 8), "dim"),
        (lambda: SimVQ(4, 0), "codebook_size"),
        (lambda: ResidualVQ(4, 0, 8), "num_quantizers"),
        (lambda: ResidualFSQ([8, 1], 2), "levels"),
        (lambda: ResidualFSQ([16] * 8, 2), "use FSQ"),
    ],
)
def test_bad_arguments_are_refused_in_words(make, words):
    with pytest.raises(SmaltiError, match=words):
        make()
