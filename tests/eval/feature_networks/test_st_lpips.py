"""Shift-tolerant LPIPS computes what the published package computes, and has finite gradients."""

import pytest
import torch

from smalti.eval.feature_networks.st_lpips import STLPIPSNetwork


def image(height, width):
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return torch.stack([torch.sin(3 * x + 2 * y), torch.cos(5 * y * x), x * y])[None]


@pytest.fixture(scope="module")
def networks():
    return {trunk: STLPIPSNetwork(trunk) for trunk in ("alex", "vgg")}


# Computed by stlpips-pytorch 0.0.2: `LPIPS(net=trunk, variant="shift_tolerant")`.
@pytest.mark.parametrize(
    ("trunk", "published"),
    [("alex", (0.09125502, 0.00567996, 0.30972028)), ("vgg", (0.19884291, 0.01569576, 0.32598564))],
)
def test_distances_equal_those_of_the_published_package(networks, trunk, published):
    a, b = image(64, 48), image(40, 72)
    pairs = [(a, (0.7 * a + 0.1 * torch.sin(40 * a)).clamp(-1, 1)), (a, a.roll(1, 3)), (b, b.flip(1))]
    with torch.no_grad():
        distances = [float(networks[trunk](x, y)) for x, y in pairs]
    assert distances == pytest.approx(published, rel=1e-4)


def test_gradients_are_finite_and_reduce_the_distance(networks):
    x, y = torch.zeros(1, 3, 32, 32, requires_grad=True), image(32, 32)
    before = networks["alex"](x, y)
    before.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert networks["alex"](x - 0.1 * x.grad / x.grad.norm(), y) < before


def test_the_smallest_size_is_the_one_that_is_declared(networks):
    for network in networks.values():
        x = torch.rand(1, 3, network.min_size, network.min_size)
        assert float(network(x, x)) == 0
        with pytest.raises(RuntimeError, match="Padding"):
            network.distance(x[..., :-1], x[..., :-1])


def test_names_and_provenance_never_claim_lpips(networks):
    assert [n.metric for n in networks.values()] == ["st_lpips", "st_lpips_vgg"]
    assert all("not LPIPS" in n.definition and len(n.provenance["sha256"]) == 64 for n in networks.values())
