"""LPIPS on real architectures with random weights, in files like the published ones."""

import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.lpips import LPIPSNetwork
from smalti.files import sha256
from smalti.pixels import uint8_to_pixels


def random_backbone(name):
    """Return random weights for the convolutions of torchvision's network, without its large classifier."""
    from torchvision.models import alexnet, vgg16

    with torch.device("meta"):
        state = {"alexnet": alexnet, "vgg16": vgg16}[name]().state_dict()
    generator = torch.Generator().manual_seed(5)
    return {
        key: torch.randn(value.shape, generator=generator) / max(value[0].numel(), 9) ** 0.5
        for key, value in state.items()
        if key.startswith("features.")
    }


def reference_alex(state, heads, x, y):
    """Compute LPIPS (arXiv 1801.03924, eq. 1) explicitly for AlexNet."""

    def feature_maps(z):
        mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        h = (z - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        for index, stride, padding, pool in (
            (0, 4, 2, False),
            (3, 1, 2, True),
            (6, 1, 1, True),
            (8, 1, 1, False),
            (10, 1, 1, False),
        ):
            h = F.max_pool2d(h, 3, 2) if pool else h
            h = F.conv2d(h, state[f"features.{index}.weight"], state[f"features.{index}.bias"], stride, padding).relu()
            yield h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)

    return sum(
        F.conv2d((a - b).square(), heads[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
        for i, (a, b) in enumerate(zip(feature_maps(x), feature_maps(y), strict=True))
    )


def test_lpips_is_the_published_formula_with_the_weights_of_the_file(weights_file, photos, add_noise):
    import lpips

    state = random_backbone("alexnet")
    file = weights_file("alexnet", state | {"classifier.1.weight": torch.zeros(2)})
    random_state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = LPIPSNetwork("alex", file.parent)
    assert torch.equal(random_state, torch.get_rng_state())
    heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    x, y = uint8_to_pixels(photos), uint8_to_pixels(add_noise(photos, 0.1))
    torch.testing.assert_close(network(x, y), reference_alex(state, heads, x, y))
    assert network.provenance == {"lpips_net": "alex", "weights": file.name, "sha256": sha256(file)}
    assert (network.metric, network.comparable) == ("lpips", True)
    assert "AlexNet" in network.definition
    assert not any(p.requires_grad for p in network.parameters())
    assert network(x[:, :, :31, :31], y[:, :, :31, :31]).shape == (5,)
    with pytest.raises(SmaltiError, match="31 x 31"):
        network(x[:, :, :30, :30], y[:, :, :30, :30])


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_a_file_with_other_layers_raises_an_error(weights_file, fault):
    state = random_backbone("alexnet")
    if fault == "missing":
        del state["features.10.bias"]
    else:
        state["features.99.bias"] = torch.zeros(1)
    with pytest.raises(SmaltiError, match="does not contain the layers"):
        LPIPSNetwork("alex", weights_file("alexnet", state))


@pytest.mark.slow
def test_lpips_vgg_loads_every_layer(weights_file, photos):
    state = random_backbone("vgg16")
    network = LPIPSNetwork("vgg", weights_file("vgg16", state))
    loaded = network.network.net.state_dict()
    assert len(loaded) == len(state) == 26
    for key, value in loaded.items():
        assert torch.equal(value, state[f"features.{key.partition('.')[2]}"])
    x = uint8_to_pixels(photos[:1, :, :16, :16]).requires_grad_()
    network(x, -x.detach()).sum().backward()
    assert x.grad is not None
