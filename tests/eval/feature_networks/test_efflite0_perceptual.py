"""The proxy for LPIPS, and what all perceptual networks share."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from smalti.errors import MissingExtraError, SmaltiError
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.pixels import pixels_to_uint8, uint8_to_pixels


def map_images(photos, change):
    images = [change(Image.fromarray(photo.permute(1, 2, 0).numpy())) for photo in photos]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def jpeg(photos, quality):
    def compress(image):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return map_images(photos, compress)


def blur(photos, radius):
    return map_images(photos, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


DEGRADATIONS = {
    "jpeg": (jpeg, (90, 50, 20, 5)),
    "blur": (blur, (0.5, 1, 2, 4)),
    "noise": (None, (0.03, 0.08, 0.2, 0.5)),
}


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_proxies_increase_with_degradation(kind, photos, perceptual_proxy, image_proxy, add_noise):
    degrade, strengths = DEGRADATIONS[kind]
    steps = [(degrade or add_noise)(photos, strength) for strength in strengths]
    with torch.no_grad():
        distances = torch.stack([perceptual_proxy(uint8_to_pixels(photos), uint8_to_pixels(step)) for step in steps])
        statistics = []
        for images in (photos, *steps):
            statistics.append(FeatureStatistics(image_proxy.dim))
            statistics[-1].add(image_proxy(images))
    assert distances[0].min() > 0
    assert (distances.diff(dim=0) > 0).all()  # for every photo at every step
    curve = [frechet_distance(statistics[0], other) for other in statistics]
    assert curve[0] < 1e-9
    assert curve == sorted(curve)


def test_the_distance_is_the_formula_of_the_docstring(photos, perceptual_proxy, add_noise):
    x, y = uint8_to_pixels(photos[:2]), uint8_to_pixels(add_noise(photos[:2], 0.1))
    with torch.no_grad():
        sizes, total = [], torch.zeros(2)
        maps = (perceptual_proxy.network.feature_maps(z, perceptual_proxy.after) for z in (x, y))
        for a, b in zip(*maps, strict=True):
            sizes.append((a.shape[1], 64 // a.shape[2]))
            u, v = (f / f.square().sum(1, keepdim=True).sqrt() for f in (a, b))
            total += (u - v).square().sum((1, 2, 3)) / (a.shape[2] * a.shape[3]) / 5
        torch.testing.assert_close(perceptual_proxy(x, y), total)
        torch.testing.assert_close(perceptual_proxy(x, y), perceptual_proxy(y, x))
        assert perceptual_proxy(x, x).tolist() == [0, 0]
        assert perceptual_proxy(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    assert sizes == [(16, 2), (24, 4), (40, 8), (112, 16), (320, 32)]


def test_gradients_reach_the_images_but_not_the_network(photos, perceptual_proxy):
    y = uint8_to_pixels(photos[:2])
    x = (y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = perceptual_proxy(x, y).sum()
    before.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    with torch.no_grad():
        after = perceptual_proxy(x - 0.02 * x.grad / x.grad.norm(), y).sum()
    assert after < before
    assert all(p.grad is None and not p.requires_grad for p in perceptual_proxy.parameters())


def test_the_gradient_of_identical_constant_images_is_finite(perceptual_proxy):
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    perceptual_proxy(x, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_network_stays_in_evaluation_mode(photos, perceptual_proxy, image_proxy):
    parent = torch.nn.ModuleList([perceptual_proxy, image_proxy]).train()
    assert not any(module.training for module in parent[0].modules())
    x, y = uint8_to_pixels(photos[:1]), uint8_to_pixels(photos[1:2])
    state = {key: value.clone() for key, value in perceptual_proxy.state_dict().items()}
    assert torch.equal(perceptual_proxy(x, y), perceptual_proxy(x, y))  # no dropout
    # Batch normalization in training mode would update its statistics.
    assert all(torch.equal(value, state[key]) for key, value in perceptual_proxy.state_dict().items())


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 64), (100, 64)])
def test_any_size_from_16_pixels(size, perceptual_proxy, image_proxy):
    x, y = torch.rand(2, 3, *size) * 2 - 1, torch.rand(2, 3, *size) * 2 - 1
    assert perceptual_proxy(x, y).shape == (2,)
    assert image_proxy(pixels_to_uint8(x)).shape == (2, 1280)


def test_smaller_images_and_other_shapes_raise_an_error(perceptual_proxy):
    with pytest.raises(SmaltiError, match="16 x 16"):
        perceptual_proxy(torch.zeros(1, 3, 15, 64), torch.zeros(1, 3, 15, 64))
    with pytest.raises(ValueError, match="two"):
        perceptual_proxy(torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))


def test_building_a_network_preserves_the_random_state():
    state = torch.get_rng_state()
    EffLite0Perceptual()
    assert torch.equal(state, torch.get_rng_state())


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"\[offline\]"):
        EffLite0Perceptual()
