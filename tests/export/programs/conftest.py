"""Small tokenizers of every family, and their programs, exported once per test session."""

import pytest
import torch
from torch import nn

from smalti.export.programs import save_programs
from smalti.tokenizers import Tokenizer, cosmos, ltx, onevae, uniwetok, wetok
from smalti.tokenizers.base import Decoder, Encoder
from smalti.tokenizers.bottlenecks import (
    BSQ,
    FSQ,
    GQ,
    KL,
    VQ,
    Identity,
    Joint,
    Projected,
    ResidualFSQ,
    ResidualVQ,
    SimVQ,
    Unquantized,
)

BOTTLENECKS = {
    "gq": lambda: GQ(2, 4),
    "fsq": lambda: FSQ([8, 5, 5], 2),
    "bsq": lambda: BSQ(6),
    "bsq_128_bits": lambda: BSQ(128, token_bits=8),
    "vq": lambda: VQ(6, 40),
    "vq_cosine": lambda: VQ(6, 40, cosine=True),
    "simvq": lambda: SimVQ(6, 40),
    "residual_vq": lambda: ResidualVQ(6, 2, 40),
    "residual_fsq": lambda: ResidualFSQ([8, 5, 5], 2),
    "projected": lambda: Projected(GQ(2, 4), 6),
    "kl": lambda: KL(4),
    "kl_shared": lambda: KL(4, shared_log_variance=True),
    "kl_statistics": lambda: KL(4, statistics=True),
    "identity": lambda: Identity(4),
    "unquantized": lambda: Unquantized(Projected(FSQ([8, 8, 8]), dim=6)),
    "joint": lambda: Joint(KL(4), Projected(FSQ([8, 8, 8]), dim=4, in_dim=8)),
}


class PatchEncoder(Encoder):
    """One convolution. The time of an export depends on the number of operations: this one is all bottleneck."""

    stride = (1, 2, 2)

    def __init__(self, out_dim):
        super().__init__()
        self.out_dim = out_dim
        self.conv = nn.Conv3d(3, out_dim, (1, 2, 2), (1, 2, 2))

    def forward(self, x, state=None):
        return (self.conv(x),)


class PatchDecoder(Decoder):
    """One transposed convolution."""

    def __init__(self, in_dim):
        super().__init__()
        self.in_dim = in_dim
        self.conv = nn.ConvTranspose3d(in_dim, 3, (1, 2, 2), (1, 2, 2))

    @property
    def last_layer(self):
        return self.conv

    def forward(self, latents, generator=None, state=None):
        return self.conv(latents[0])


_BLOCKS = [["res_x", {}], ["compress_all", {}]]
_NOISY = [["res_x", {"inject_noise": True}], ["compress_all", {"multiplier": 2, "residual": True}]]


def _ltx(bottleneck, blocks=_BLOCKS, **options):
    return ltx(
        bottleneck, encoder_channels=4, decoder_channels=4, encoder_blocks=_BLOCKS, decoder_blocks=blocks, **options
    )


FAMILIES = {
    "patches": lambda b: Tokenizer(PatchEncoder(b.in_dim), b, PatchDecoder(b.out_dim)),
    "wetok": lambda b: wetok(b, stride=2, channels=8, blocks=1, groups=4),
    "uniwetok": lambda b: uniwetok(b, stride=2, channels=8, blocks=1, groups=4, attention_heads=1),
    "onevae": lambda b: onevae(b, stride=(2, 2, 2), channels=4, blocks=1, norm=False),
    "onevae_first_frame": lambda b: onevae(b, stride=(2, 4, 4), channels=4, blocks=1, first_frame=True, norm=False),
    "cosmos": lambda b: cosmos(b, stride=(2, 4, 4), z_channels=4, channels=4, multipliers=[1, 2, 2], blocks=1, patch=2),
    "ltx": _ltx,
    "ltx_generative": lambda b: _ltx(b, _NOISY, denoising=True),
}


def _build(family, bottleneck):
    torch.manual_seed(0)
    tokenizer = FAMILIES[family](BOTTLENECKS[bottleneck]()).eval().requires_grad_(False)
    with torch.no_grad():  # decoders start near gray, where every difference of pixels is small
        tokenizer.decoder.last_layer.weight.mul_(5)
    return tokenizer


@pytest.fixture(scope="session")
def build():
    """Return a function that builds a tokenizer by family and bottleneck."""
    return _build


@pytest.fixture(scope="session")
def bottlenecks():
    """Return the names of all bottlenecks."""
    return tuple(BOTTLENECKS)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return a function that exports a tokenizer once, and returns its folder."""
    folders = {}

    def export(family, bottleneck, kind):
        key = (family, bottleneck, kind)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("programs") / "-".join(key)
            save_programs(_build(family, bottleneck), folders[key], kind)
        return folders[key]

    return export
