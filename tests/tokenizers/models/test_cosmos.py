"""Cosmos' networks: diffusers computes the same for clips, plain torch functions the same for images."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers import cosmos
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL, Identity
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.importers import cosmos as importer
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.models.cosmos.haar import haar, inverse_haar

LEVELS = [8, 8, 8, 5, 5, 5]


def randomize(tokenizer):
    """Give all weights random values, also biases and norms, so that none can be missing without notice."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise if parameter.ndim == 1 else noise / parameter[0].numel() ** 0.5)
    return tokenizer.eval()


def pixels(*shape):
    return torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


# Clips: diffusers' AutoencoderKLCosmos

TO_DIFFUSERS = (
    (r"\.conv3d\.", "."),
    (r"(conv1|conv2|conv_in|conv_out)\.0\.", r"\1.conv_s."),
    (r"(conv1|conv2|conv_in|conv_out)\.1\.", r"\1.conv_t."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.0\.", ".mid_block.attentions.0."),
    (r"\.mid\.attn_1\.1\.", ".mid_block.temp_attentions.0."),
    (r"\.(q|k|v)\.", r".to_\1."),
    (r"\.proj_out\.", ".to_out.0."),
    (r"\.down\.(\d)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.up_blocks\.(\d)\.", lambda found: f".up_blocks.{2 - int(found[1])}."),
)


def to_diffusers(key):
    for pattern, replacement in TO_DIFFUSERS:
        key = re.sub(pattern, replacement, key)
    return key


@pytest.mark.parametrize(
    ("stride", "patch"), [((8, 8, 8), 4), ((4, 8, 8), 2), ((4, 8, 8), 4), ((8, 16, 16), 4)], ids=str
)
@torch.no_grad()
def test_clips_are_encoded_and_decoded_as_by_diffusers(stride, patch):
    diffusers = pytest.importorskip("diffusers")
    tokenizer = randomize(cosmos(Identity(4), stride, z_channels=4, channels=8, blocks=1, patch=patch)).double()
    model = diffusers.AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8, 16, 32, 32), decode_block_out_channels=(16, 32, 32, 32),
        num_layers=1, patch_size=patch, temporal_compression_ratio=stride[0], spatial_compression_ratio=stride[1],
    ).eval().double()  # fmt: skip
    keys = importer.keys(tokenizer)
    model.load_state_dict({to_diffusers(keys[name]): weight for name, weight in tokenizer.state_dict().items()})
    for part in (model.encoder.patch_embed, model.decoder.unpatch_embed):
        part.wavelets.fill_(0.5**0.5)  # the class rounds it to float32
    for frames in (1, 17):
        x = pixels(frames, 32, 48)
        z = model.encode(x).latent_dist.mode()
        latents = tokenizer.encode(x)
        torch.testing.assert_close(latents.to_grids()[0], z, rtol=0, atol=1e-10)
        torch.testing.assert_close(tokenizer.decode(latents), model.decode(z).sample, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_clip_streams_and_is_causal():
    tokenizer = randomize(cosmos(FSQ(LEVELS), (4, 8, 8), channels=8, blocks=1, patch=2)).double()
    x = pixels(17, 16, 24)
    latents = tokenizer.encode(x, chunk=17)
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    whole = encoder(x)[0]
    changed = x.clone()
    changed[:, :, 9:] *= -1
    torch.testing.assert_close(encoder(changed)[0][:, :, :3], whole[:, :, :3])
    assert not torch.allclose(encoder(changed)[0], whole)
    for chunk in (4, 8):
        parts = tokenizer.encode(x, chunk=chunk)
        torch.testing.assert_close(parts.z, latents.z, rtol=0, atol=1e-12)
        decoded = tokenizer.decode(latents, chunk=chunk)
        torch.testing.assert_close(decoded, decoder(tuple(latents.to_grids())), rtol=0, atol=1e-12)


# Images: plain functions of the published weights


def reference_haar(x, patch):
    """Apply the matrix of the published transform to the pixels of each patch: products of 1-D filters, columns first."""
    filters = torch.tensor([[0.5, 0.5], [0.5, -0.5]], dtype=x.dtype)
    while patch > 1:
        pairs = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        x = torch.einsum("bchpwq,np,mq->bmnchw", pairs, filters, filters).flatten(1, 3)
        patch //= 2
    return x


def reference_inverse_haar(x, patch):
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=x.dtype)
    while patch > 1:
        bands = x.unflatten(1, (2, 2, -1))
        x = torch.einsum("bmnchw,np,mq->bchpwq", bands, signs, signs).flatten(4, 5).flatten(2, 3)
        patch //= 2
    return x


class Reference:
    """The published networks for images, by the published keys."""

    def __init__(self, weights, patch, levels, resampled):
        self.weights, self.patch, self.levels, self.resampled = weights, patch, levels, resampled

    def conv(self, name, x, **options):
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options)

    def norm(self, name, x):
        return F.group_norm(x, 32, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps=1e-6)

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.weights else x)

    def middle(self, name, x):
        x = self.block(f"{name}.block_1", x)
        h = self.norm(f"{name}.attn_1.norm", x)
        q, k, v = (self.conv(f"{name}.attn_1.{part}", h).flatten(2) for part in "qkv")
        weights = (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1)
        attended = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
        return self.block(f"{name}.block_2", x + self.conv(f"{name}.attn_1.proj_out", attended))

    def encode(self, x):
        h = self.conv("encoder.conv_in", reference_haar(x, self.patch), padding=1)
        for level in range(self.levels):
            h = self.block(f"encoder.down.{level}.block.0", h)
            if level < self.resampled:
                h = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
        h = F.silu(self.norm("encoder.norm_out", self.middle("encoder.mid", h)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", h, padding=1))

    def decode(self, z):
        h = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1))
        for level in reversed(range(self.levels)):
            for block in range(2):
                h = self.block(f"decoder.up.{level}.block.{block}", h)
            if level >= self.levels - self.resampled:
                doubled = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = self.conv(f"decoder.up.{level}.upsample.conv", doubled, padding=1)
        h = F.silu(self.norm("decoder.norm_out", h))
        return reference_inverse_haar(self.conv("decoder.conv_out", h, padding=1), self.patch)


@pytest.mark.parametrize(("name", "stride", "patch"), [("CI", 8, 2), ("DI", 8, 4), ("DI", 16, 4)])
@torch.no_grad()
def test_images_are_encoded_and_decoded_as_by_plain_functions(name, stride, patch):
    config = {
        "name": name, "spatial_compression": stride, "patch_size": patch, "channels": 32, "channels_mult": [1, 2, 2],
        "num_res_blocks": 1, "z_channels": 12, "latent_channels": 5,
    }  # fmt: skip
    built = randomize(importer.build(config))
    published = {key: built.state_dict()[own] for own, key in importer.keys(built).items()}
    tokenizer = from_published("cosmos", config, published).double()
    reference = Reference({k: w.double() for k, w in published.items()}, patch, 3, (stride // patch).bit_length() - 1)
    x = pixels(32, 48)
    h = tokenizer.encoder(x.unsqueeze(2))[0].squeeze(2)
    torch.testing.assert_close(h, reference.encode(x), rtol=0, atol=1e-10)
    latents = tokenizer.encode(x)
    z = latents.to_grids()[0].squeeze(2)
    torch.testing.assert_close(tokenizer.decode(latents), reference.decode(z), rtol=0, atol=1e-10)
    if name == "DI":
        assert tokenizer.quantizer.codebook_size == 64000
        tokens = tokenizer.tokenize(x)
        torch.testing.assert_close(tokenizer.detokenize(tokens), tokenizer.decode(latents))
    clip = tokenizer.encode(torch.stack([x, -x], dim=2))
    torch.testing.assert_close(clip.to_grids()[0][:, :, :1], latents.to_grids()[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)), st.integers(0, 99))
def test_the_wavelets_are_inverted_and_keep_the_range(channels, halves, seed):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.rand(2, channels, *(2 * n for n in halves), generator=generator, dtype=torch.float64) * 2 - 1
    for axes in ((2, 3, 4), (4, 3), (2,)):
        bands = haar(clip, axes)
        assert bands.abs().max() <= 1
        torch.testing.assert_close(inverse_haar(bands, axes), clip)
        torch.testing.assert_close(bands[:, :channels].mean(), clip.mean())


# Networks of other sizes


@pytest.mark.parametrize("stride", [(1, 8, 8), (4, 8, 8)], ids=str)
@pytest.mark.parametrize("bottleneck", [KL(3), GQ(2, 4), FSQ([5, 5, 5])], ids=lambda b: type(b).__name__)
def test_any_bottleneck_fits_and_the_configuration_is_that_of_the_networks(stride, bottleneck):
    with torch.device("meta"):
        tokenizer = cosmos(bottleneck, stride, channels=32, blocks=1)
        config = get_config(tokenizer)
        assert config["init_args"]["encoder"]["class_path"] == "smalti.tokenizers.CosmosEncoder"
        assert get_config(from_config(config)) == config
    assert (tokenizer.encoder.stride, tokenizer.encoder.out_dim) == (stride, bottleneck.in_dim)


@pytest.mark.parametrize("stride", [(1, 8, 8), (4, 8, 8)], ids=str)
def test_random_weights_keep_the_variance_and_every_weight_has_a_gradient(stride):
    torch.manual_seed(0)
    tokenizer = cosmos(KL(4), stride, channels=32, multipliers=[1, 2], blocks=1).train()
    shape = (9, 32, 32) if stride[0] > 1 else (32, 32)
    reconstruction, latents = tokenizer(pixels(*shape).float())
    assert 0.3 < latents.z.std() < 3
    (reconstruction.square().mean() + sum(latents.code.losses.values())).backward()
    assert [name for name, p in tokenizer.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": (4, 8, 16)}, "equal height and width"),
        ({"stride": (1, 8, 8), "channels": 24}, "32 groups"),
        ({"stride": (1, 12, 12)}, "power of 2"),
        ({"stride": (1, 64, 64)}, "do not give the stride"),
        ({"stride": (2, 8, 8)}, "do not give the stride"),
        ({"stride": (8, 8, 8), "patch": 2}, "never upsamples in time"),
        ({"channels": 0}, "positive numbers"),
        ({"patch": 3}, "patch is 3"),
    ],
)
def test_errors_say_what_to_change(arguments, message):
    with torch.device("meta"), pytest.raises(SmaltiError, match=message) as error:
        cosmos(KL(4), **arguments)
    assert "\n" not in str(error.value)
