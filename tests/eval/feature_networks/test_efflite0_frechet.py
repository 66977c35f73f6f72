"""Fréchet distances of clips: the stand-in sees looks and motion, and I3D is called as its published program wants it."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval import pretrained_weights as places
from smalti.eval.feature_networks.i3d import I3DNetwork
from smalti.eval.feature_networks.selection import frechet_network
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.eval.pretrained_weights import SOURCES, WeightsSource, digest
from smalti.pixels import pixels_to_uint8, uint8_to_pixels


def spread_of(features):
    spread = FeatureStatistics(features.shape[1])
    spread.add(features)
    return spread


@pytest.fixture(scope="module")
def short(clips):
    """Four frames do, and are quicker."""
    return clips[:, :, :8:2]


@pytest.fixture(scope="module")
def seen(short, motion):
    return motion(short)


def noisy(clips, strength):
    generator = torch.Generator().manual_seed(0)
    return pixels_to_uint8(uint8_to_pixels(clips) + strength * torch.randn(clips.shape, generator=generator))


def blurred(clips, factor):
    frames = uint8_to_pixels(clips).transpose(1, 2).flatten(0, 1)
    small = F.interpolate(frames, scale_factor=1 / factor, mode="bilinear", antialias=True)
    large = F.interpolate(small, size=frames.shape[2:], mode="bilinear")
    return pixels_to_uint8(large).unflatten(0, (len(clips), -1)).transpose(1, 2)


@pytest.mark.parametrize(("damage", "steps"), [(noisy, (0.03, 0.1, 0.3)), (blurred, (1.5, 3, 6))])
def test_the_stand_in_rises_with_damage(damage, steps, short, seen, motion):
    features = [seen, *(motion(damage(short, step)) for step in steps)]
    curve = [frechet_distance(spread_of(seen), spread_of(other)) for other in features]
    assert curve[0] < 1e-9
    assert curve == sorted(curve)
    assert curve[1] > 1


def test_the_stand_in_sees_motion_where_every_frame_is_right(short, seen, motion, stand_ins):
    """The same frames in a wrong order: a distance of images is blind to it."""
    half = motion.dim // 2
    shuffled = motion(short[:, :, torch.tensor([2, 0, 3, 1])])
    torch.testing.assert_close(shuffled[:, :half], seen[:, :half])
    assert frechet_distance(spread_of(seen), spread_of(shuffled)) > 1
    images = stand_ins[1](short[0].transpose(0, 1)).mean(0)
    torch.testing.assert_close(seen[0, :half], images)  # looks are the mean of the frames' features
    assert motion(short[:1, :, :1].expand(-1, -1, 2, -1, -1))[:, half:].abs().max() == 0


def test_networks_look_at_what_they_are_made_for(photos, short, motion, stand_ins):
    with pytest.raises(SmaltiError, match="fvd_efflite0 is a metric of clips"):
        motion(photos)
    with pytest.raises(SmaltiError, match="fd_efflite0 is a metric of images"):
        stand_ins[1](short)
    with pytest.raises(ValueError, match="2 frames"):
        motion(short[:, :, :1])
    assert frechet_network("efflite0_motion").metric == "fvd_efflite0"


class Program(nn.Module):
    """Called as the published program is: values in [0, 255] that it scales and resizes, 400 logits a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 1200).reshape(400, 3))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert x.dtype == torch.float32
        assert rescale
        assert resize
        assert return_features
        return (x / 127.5 - 1).mean(dim=(2, 3, 4)) @ self.weight.t()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program with another content and the published name, whose hash is made known."""
    file = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format outdated; the published file has no other
        torch.jit.script(Program()).save(str(file))
    monkeypatch.setattr(places, "_failures", {})
    monkeypatch.setitem(SOURCES, "i3d", WeightsSource("https://example.org/i3d_torchscript.pt?dl=1", digest(file)))
    return file


def test_i3d_is_called_as_published(program, clips):
    network = I3DNetwork(program.parent)
    long = torch.cat([clips, clips], dim=2)
    expected = uint8_to_pixels(long).mean((2, 3, 4)) @ torch.linspace(-1, 1, 1200).reshape(400, 3).T
    torch.testing.assert_close(network(long), expected)
    assert (network.metric, network.comparable, network.least_frames) == ("rfvd", True, 10)
    assert network.provenance["sha256"] == digest(program)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_program_with_another_hash_is_never_run(program, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("it ran"))
    program.write_bytes(program.read_bytes() + b"\0")
    with pytest.raises(SmaltiError, match="damaged or another file"):
        I3DNetwork(program)


def test_what_is_no_program_is_refused(program, monkeypatch):
    program.write_bytes(b"x")
    monkeypatch.setitem(SOURCES, "i3d", WeightsSource(SOURCES["i3d"].url, digest(program)))
    with pytest.raises(SmaltiError, match="cannot be read as the I3D program"):
        I3DNetwork(program)
