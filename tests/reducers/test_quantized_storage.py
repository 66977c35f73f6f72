"""Storage of latents: errors stay within their bounds, and the size is as promised."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.reducers import quantize_by_saliency, quantize_latents


def make():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 50, 7, generator=generator) * torch.logspace(-2, 2, 7) + 1


@pytest.mark.parametrize("axis", ["channel", "token", "balanced"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_errors_are_within_their_bounds(bits, axis):
    latents = make()
    stored = quantize_latents(latents, bits, axis)
    error = (stored.dequantize() - latents).abs()
    assert bool((error <= stored.error_bound()).all())
    assert float((error / stored.error_bound()).max()) > 0.5  # the bound is not loose
    assert stored.levels.shape == (3, -(-50 * 7 * bits // 8))


def test_balancing_channels_reduces_the_error_of_small_ones():
    latents = make()
    token, balanced = (
        (quantize_latents(latents, 4, axis).dequantize() - latents)[..., 0].abs().mean()
        for axis in ("token", "balanced")
    )
    assert balanced < token / 3


def test_salient_tokens_are_more_precise():
    latents, saliency = make(), torch.rand(3, 50)
    mixed = quantize_by_saliency(latents, saliency, keep=10, high=8, low=2)
    error = (mixed.dequantize() - latents).abs()
    assert bool((error <= mixed.error_bound()).all())
    for sample in range(3):
        salient = saliency[sample].topk(10).indices
        assert set(mixed.salient[sample].tolist()) == set(salient.tolist())
        rest = [i for i in range(50) if i not in set(salient.tolist())]
        assert error[sample, salient].mean() < error[sample, rest].mean() / 8
    assert quantize_latents(latents, 2).nbytes < mixed.nbytes < quantize_latents(latents, 8).nbytes


def test_constant_latents_are_exact():
    latents = torch.full((1, 4, 3), 2.5)
    assert torch.equal(quantize_latents(latents, 2, "channel").dequantize(), latents)


def test_bad_input():
    with pytest.raises(SmaltiError, match="choose 1, 2, 4 or 8"):
        quantize_latents(make(), 3)
    with pytest.raises(SmaltiError, match="NaN"):
        quantize_latents(torch.full((1, 2, 2), float("nan")), 4)
    with pytest.raises(SmaltiError, match="choose a number from 1 to 50"):
        quantize_by_saliency(make(), torch.rand(3, 50), keep=51)
