"""The measuring networks. VGG16, AlexNet and Inception are real architectures with random weights in files of their own."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from smalti.errors import MissingExtraError, SmaltiError
from smalti.eval import pretrained_weights as weights
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.feature_networks.inception import InceptionNetwork
from smalti.eval.feature_networks.lpips import LPIPSNetwork
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.eval.pretrained_weights import SOURCES, WeightsSource, digest
from smalti.pixels import pixels_to_uint8, uint8_to_pixels


def through_pillow(photos, change):
    pictures = [change(Image.fromarray(photo.permute(1, 2, 0).numpy())) for photo in photos]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def jpeg(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def noise(photos, strength):
    generator = torch.Generator().manual_seed(0)
    return pixels_to_uint8(uint8_to_pixels(photos) + strength * torch.randn(photos.shape, generator=generator))


DAMAGE = {
    "jpeg": [lambda x, q=q: through_pillow(x, lambda p: jpeg(p, q)) for q in (90, 50, 20, 5)],
    "blur": [lambda x, r=r: through_pillow(x, lambda p: p.filter(ImageFilter.GaussianBlur(r))) for r in (0.5, 1, 2, 4)],
    "noise": [lambda x, s=s: noise(x, s) for s in (0.03, 0.08, 0.2, 0.5)],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_stand_in_distances_rise_with_damage(kind, photos, stand_ins):
    perceptual, features = stand_ins
    steps = [damage(photos) for damage in DAMAGE[kind]]
    with torch.no_grad():
        distances = torch.stack([perceptual(uint8_to_pixels(photos), uint8_to_pixels(step)) for step in steps])
        spreads = []
        for images in (photos, *steps):
            spreads.append(FeatureStatistics(features.dim))
            spreads[-1].add(features(images))
    assert distances[0].min() > 0
    assert (distances.diff(dim=0) > 0).all()  # for every photo at every step
    curve = [frechet_distance(spreads[0], other) for other in spreads]
    assert curve[0] < 1e-9
    assert curve == sorted(curve)


def test_stand_in_is_the_formula_of_its_docstring(photos, stand_ins):
    perceptual, _ = stand_ins
    x, y = uint8_to_pixels(photos[:2]), uint8_to_pixels(noise(photos[:2], 0.1))
    with torch.no_grad():
        sizes, total = [], torch.zeros(2)
        for a, b in zip(*(perceptual.network.maps(z, perceptual.after) for z in (x, y)), strict=True):
            sizes.append((a.shape[1], 64 // a.shape[2]))
            u, v = (f / f.square().sum(1, keepdim=True).sqrt() for f in (a, b))
            total += (u - v).square().sum((1, 2, 3)) / (a.shape[2] * a.shape[3]) / 5
        torch.testing.assert_close(perceptual(x, y), total)
        torch.testing.assert_close(perceptual(x, y), perceptual(y, x))
        assert perceptual(x, x).tolist() == [0, 0]
        assert perceptual(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    assert sizes == [(16, 2), (24, 4), (40, 8), (112, 16), (320, 32)]


def test_stand_in_knows_photos(stand_ins):
    """Its weights are the real ones: the classifier that comes with them calls the photo of Chelsea a tabby cat."""
    import skimage.data
    from PIL import ImageOps

    _, features = stand_ins
    picture = ImageOps.fit(Image.fromarray(skimage.data.chelsea()), (224, 224))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    head = torch.load(features.network.file, weights_only=True)
    logits = features(image) @ head["_fc.weight"].T + head["_fc.bias"]
    assert logits.argmax().item() in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


def test_gradients_reach_the_images_and_stay_out_of_the_network(photos, stand_ins):
    perceptual, _ = stand_ins
    y = uint8_to_pixels(photos[:2])
    x = (y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = perceptual(x, y).sum()
    before.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    with torch.no_grad():
        after = perceptual(x - 0.02 * x.grad / x.grad.norm(), y).sum()
    assert after < before
    assert all(p.grad is None and not p.requires_grad for p in perceptual.parameters())


def test_gradient_at_equal_and_at_flat_images_is_finite(stand_ins):
    perceptual, _ = stand_ins
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    perceptual(x, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_training_mode_does_not_reach_it(photos, stand_ins):
    holder = torch.nn.ModuleList(stand_ins).train()
    assert not any(module.training for module in holder[0].modules())
    x, y = uint8_to_pixels(photos[:1]), uint8_to_pixels(photos[1:2])
    state = {key: value.clone() for key, value in stand_ins[0].state_dict().items()}
    first = stand_ins[0](x, y)
    assert torch.equal(first, stand_ins[0](x, y))
    assert all(torch.equal(value, state[key]) for key, value in stand_ins[0].state_dict().items())


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 64), (100, 64)])
def test_any_size_from_16(size, stand_ins):
    x, y = torch.rand(2, 3, *size) * 2 - 1, torch.rand(2, 3, *size) * 2 - 1
    perceptual, features = stand_ins
    assert perceptual(x, y).shape == (2,)
    assert features(pixels_to_uint8(x)).shape == (2, 1280)


def test_sizes_below_are_refused(stand_ins):
    with pytest.raises(SmaltiError, match="16 x 16"):
        stand_ins[0](torch.zeros(1, 3, 15, 64), torch.zeros(1, 3, 15, 64))
    with pytest.raises(ValueError, match="two"):
        stand_ins[0](torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))


def test_building_does_not_move_the_random_numbers_of_a_run():
    state = torch.get_rng_state()
    EffLite0Perceptual()
    assert torch.equal(state, torch.get_rng_state())


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"smalti\[offline\]"):
        EffLite0Perceptual()


@pytest.fixture
def file_of(tmp_path, monkeypatch):
    """Saves a state dict as a file whose name carries its hash, as the published one."""

    def save(name, state):
        torch.save(state, tmp_path / "x.pth")
        url = f"https://example.org/{name}-{digest(tmp_path / 'x.pth')[:8]}.pth"
        monkeypatch.setitem(SOURCES, name, WeightsSource(url))
        return (tmp_path / "x.pth").rename(tmp_path / WeightsSource(url).file)

    monkeypatch.setattr(weights, "_failures", {})
    return save


def backbone(name):
    """The convolutions of torchvision's network with random weights, without building its large classifier."""
    from torchvision.models import alexnet, vgg16

    with torch.device("meta"):
        state = {"alexnet": alexnet, "vgg16": vgg16}[name]().state_dict()
    generator = torch.Generator().manual_seed(5)
    return {
        key: torch.randn(value.shape, generator=generator) / max(value[0].numel(), 9) ** 0.5
        for key, value in state.items()
        if key.startswith("features.")
    }


def alex_by_hand(state, heads, x, y):
    """LPIPS (arXiv 1801.03924, eq. 1) written out for AlexNet."""
    from torch.nn import functional as F

    def maps(z):
        h = (z - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
            3, 1, 1
        )
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
        for i, (a, b) in enumerate(zip(maps(x), maps(y), strict=True))
    )


def test_lpips_is_the_published_formula_on_the_weights_of_the_file(file_of, photos):
    from pathlib import Path

    import lpips

    state = backbone("alexnet")
    file = file_of("alexnet", state | {"classifier.1.weight": torch.zeros(2)})
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = LPIPSNetwork("alex", file.parent)
    assert torch.equal(before, torch.get_rng_state())
    heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    x, y = uint8_to_pixels(photos), uint8_to_pixels(noise(photos, 0.1))
    torch.testing.assert_close(network(x, y), alex_by_hand(state, heads, x, y))
    assert network.provenance == {"lpips_net": "alex", "weights": file.name, "sha256": digest(file)}
    assert (network.metric, network.comparable) == ("lpips", True)
    assert not any(p.requires_grad for p in network.parameters())
    assert network(x[:, :, :31, :31], y[:, :, :31, :31]).shape == (5,)
    with pytest.raises(SmaltiError, match="31 x 31"):
        network(x[:, :, :30, :30], y[:, :, :30, :30])


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_lpips_refuses_a_file_of_other_layers(file_of, fault):
    state = backbone("alexnet")
    if fault == "missing":
        del state["features.10.bias"]
    else:
        state["features.99.bias"] = torch.zeros(1)
    with pytest.raises(SmaltiError, match="does not hold the layers"):
        LPIPSNetwork("alex", file_of("alexnet", state))


@pytest.mark.slow
def test_lpips_vgg_loads_every_layer(file_of, photos):
    state = backbone("vgg16")
    network = LPIPSNetwork("vgg", file_of("vgg16", state))
    loaded = network.network.net.state_dict()
    assert len(loaded) == len(state) == 26
    for key, value in loaded.items():
        assert torch.equal(value, state[f"features.{key.partition('.')[2]}"])
    x = uint8_to_pixels(photos[:1, :, :16, :16]).requires_grad_()
    network(x, -x.detach()).sum().backward()
    assert x.grad is not None


@pytest.fixture(scope="module")
def inception_state():
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: None)
        network = FeatureExtractorInceptionV3("x", ["2048"], "nowhere")
    generator = torch.Generator().manual_seed(7)

    def filled(key, value):
        if key.endswith("num_batches_tracked"):
            return torch.tensor(0)
        if value.ndim > 1:
            return torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        return torch.zeros(value.shape) if key.endswith(("bias", "running_mean")) else torch.ones(value.shape)

    return {key: filled(key, value) for key, value in network.state_dict().items()}


@pytest.mark.slow
def test_rfid_is_torchmetrics_fid_with_tensorflows_resize(file_of, inception_state, photos):
    from torchmetrics.image.fid import FrechetInceptionDistance

    file = file_of("inception", inception_state)
    network = InceptionNetwork(file)
    theirs = FrechetInceptionDistance(feature_extractor_weights_path=str(file), antialias=False)
    a, b = photos[:3], noise(photos[:3], 0.2)
    with torch.no_grad():
        torch.testing.assert_close(network(a), theirs.inception(a))
        ours = [FeatureStatistics(network.dim), FeatureStatistics(network.dim)]
        for spread, images in zip(ours, (a, b), strict=True):
            spread.add(network(images))
    x, y = (network(images).double() for images in (a, b))
    # Their formula on two-dimensional shadows of the features, where eigenvalues of a product are quick and sure.
    from torchmetrics.image.fid import _compute_fid

    small = [FeatureStatistics(2), FeatureStatistics(2)]
    for spread, features in zip(small, (x, y), strict=True):
        spread.add(features[:, :2])
    expected = _compute_fid(x[:, :2].mean(0), torch.cov(x[:, :2].T), y[:, :2].mean(0), torch.cov(y[:, :2].T))
    assert frechet_distance(*small) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(*ours) > 0
    assert (network.metric, network.comparable) == ("rfid", True)


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


def test_inception_files_with_more_than_tensors_are_refused(file_of, capsys):
    with pytest.raises(SmaltiError, match="cannot be read as Inception weights"):
        InceptionNetwork(file_of("inception", {"x": Evil()}))
    assert "this ran" not in capsys.readouterr().out


def test_the_network_sees_the_range_it_was_trained_on(photos, stand_ins):
    seen = []
    network = stand_ins[0].network
    handle = network.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        network.maps(uint8_to_pixels(photos), (0,))
    handle.remove()
    torch.testing.assert_close(seen[0], (photos.float() - 127) / 128)
