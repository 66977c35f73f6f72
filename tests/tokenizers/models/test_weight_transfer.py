"""Weight transfer from Wan2.1 and OneVAE to OneVAE: it preserves the function if possible, and its report is correct."""

import copy

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.base import StreamState
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.onevae import build
from smalti.tokenizers.importers.wan import build as build_wan
from smalti.tokenizers.models.onevae.layer_matching import match_levels
from smalti.tokenizers.models.onevae.resampling import Upsample
from smalti.tokenizers.models.onevae.weight_transfer import summarize, transfer_weights

WAN = {
    "dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}
SMALL_WAN = {"channels": 8, "multipliers": [1, 2, 2], "strides": [[1, 2], [2, 2]], "blocks": 1}


def build_tokenizer(bottleneck, seed=1, **architecture):
    """Build a small tokenizer in float64, where equal functions differ by less than 1e-12."""
    torch.manual_seed(seed)
    architecture = SMALL_WAN | architecture
    z = bottleneck.out_dim
    encoder, decoder = OneVAEEncoder(bottleneck.in_dim, **architecture), OneVAEDecoder(z, **architecture)
    return Tokenizer(encoder, bottleneck, decoder).eval().double()


def joint(z):
    return Joint(KL(z), Projected(FSQ([8, 8, 8]), dim=z, in_dim=2 * z))


@pytest.fixture(scope="module")
def wan():
    """A small continuous tokenizer with Wan2.1's architecture, in which every weight has an effect."""
    tokenizer = build_tokenizer(KL(4), seed=0)
    for parameter in tokenizer.parameters():  # also biases and scales, which are initialized to 0 and 1
        parameter.data += 0.05 * torch.randn_like(parameter)
    return tokenizer


def clip(frames=9, size=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, frames, size, size, generator=generator, dtype=torch.float64) * 2 - 1


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equal(ours, theirs):
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() <= 1e-12)


def total(reports, field):
    return sum(getattr(report, field) for report in reports.values())


@torch.no_grad()
def test_more_latent_channels_keep_the_function_of_a_diffusers_model(tolerance, difference):
    """From a random AutoencoderKLWan of diffusers to a joint 4x8x8 OneVAE with twelve times its latent channels."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    config = {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_scales": [],
        "temperal_downsample": [False, True, True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    }  # fmt: skip
    theirs = diffusers.AutoencoderKLWan(**config).eval().double()
    x = clip(9, 32)
    expected = theirs.decode(theirs.encode(x).latent_dist.mode()).sample
    source = from_published("diffusers", {"_class_name": "AutoencoderKLWan", **config}, theirs.state_dict()).double()
    target = build_tokenizer(joint(48), multipliers=[1, 2, 4, 4], strides=[[1, 2], [2, 2], [2, 2]])
    assert target.encoder.stride == (4, 8, 8)
    transfer_weights(target, source)
    latents = target.as_continuous().encode(x)
    assert expected.abs().max() > 0.1
    # diffusers clamps its output, and converts features to float32 in its upsampling.
    pixels = target.as_continuous().decode(latents).clamp(-1, 1)
    assert difference(pixels, expected) <= tolerance(torch.float32, source.decoder)
    assert equal(latents.z[..., :4], source.encode(x).z)


def test_published_models_copy_what_their_authors_copied(manifests):
    """From Wan2.1 to 8x16x16, 167.6M of 176.6M parameters are copied and 8.3M partially. By name and shape: only 118.8M."""
    with torch.device("meta"):
        source = build_wan(WAN)
        target = build(manifests["OneVAE_64000_FSQ_81616_33_mt2_fe"]["config"])
    weights = source.state_dict()
    same_name_and_shape = [
        w.numel() for n, w in target.state_dict().items() if n in weights and weights[n].shape == w.shape
    ]
    assert round(sum(same_name_and_shape) / 1e6, 1) == 118.8
    reports = transfer_weights(target, source)
    assert [round(total(reports, field) / 1e6, 1) for field in ("copied", "partially_copied")] == [167.6, 8.3]
    # New are the two convolutions of the first frame's grid, and the projections around the quantizer.
    first_frame = (256 * 256 * 9 + 256) + (384 * 192 + 192)
    assert total(reports, "new") == first_frame + (256 * 12 + 12) + (12 * 256 + 256)
    assert sum(total(reports, field) for field in ("copied", "partially_copied", "new")) == 176_579_055
    assert summarize(reports).startswith(
        "all: 167,617,059 (94.9%) copied, 8,291,584 (4.7%) partially copied, 670,412 (0.4%) new; encoder: "
    )


def test_levels_are_matched_as_the_authors_did():
    encoder, decoder = [(96, 96), (96, 192), (192, 384), (384, 384)], [(96, 96), (192, 192), (192, 384)]
    assert match_levels([*encoder, (384, 384)], encoder) == [0, 1, 2, 3, 3]
    assert match_levels([*decoder, (192, 384), (384, 384)], [*decoder, (384, 384)]) == [0, 1, 2, 2, 3]


def test_an_additional_level_copies_the_deepest_level_of_its_widths():
    strides = [[1, 2], [2, 2], [2, 2]]
    source = build_tokenizer(KL(4), multipliers=[1, 2, 4, 4], strides=strides, seed=0)
    target = build_tokenizer(KL(4), multipliers=[1, 2, 4, 4, 4], strides=[*strides, [2, 2]])
    reports = transfer_weights(target, source)
    assert total(reports, "partially_copied") == total(reports, "new") == 0
    # Encoder: one block and one downsampling per level, from pixels to latents. Decoder: two blocks and one upsampling per
    # level, from latents to pixels.
    for part, indices in (
        ("encoder", [0, 1, 2, 3, 4, 5, 6, 5, 6]),
        ("decoder", [0, 1, 2, 3, 4, 5, 3, 4, *range(5, 11)]),
    ):
        ours, theirs = getattr(target, part).layers, getattr(source, part).layers
        for layer, index in zip(ours, indices, strict=True):
            expected = theirs[index].state_dict()
            assert all(torch.equal(weight, expected[name]) for name, weight in layer.state_dict().items())


@torch.no_grad()
def test_new_temporal_strides_and_blocks_do_not_change_images(wan):
    """The first frame skips temporal resampling, and a new residual block is the identity."""
    target = build_tokenizer(KL(4), strides=[[2, 2], [2, 2]], blocks=2)
    reports = transfer_weights(target, wan)
    assert all(reports[part].new > 0 for part in ("encoder", "decoder"))
    x = clip(1)[:, :, 0]
    assert equal(target(x)[0], wan(x)[0])


@torch.no_grad()
def test_new_temporal_strides_average_and_repeat_frames(wan):
    target = build_tokenizer(KL(4), strides=[[2, 2], [2, 2]])
    transfer_weights(target, wan)
    down, source_down = (tokenizer.encoder.layers[1] for tokenizer in (target, wan))
    up, source_up = (tokenizer.decoder.layers[5] for tokenizer in (target, wan))
    x = randn(1, 8, 9, 8, 8)
    pairs = torch.cat([x[:, :, :1], torch.stack([x[:, :, 1:] - 0.5, x[:, :, 1:] + 0.5], dim=3).flatten(2, 3)], dim=2)
    assert equal(down(pairs, StreamState(last=True)), source_down(x, StreamState(last=True)))
    features = randn(1, 16, 3, 4, 4)
    repeated = features[:, :, [0, 1, 1, 2, 2]]
    assert equal(up(features, StreamState(last=True)), source_up(repeated, StreamState(last=True)))


@torch.no_grad()
def test_the_first_frames_grid_is_initialized_from_the_other_layers(wan):
    target = build_tokenizer(KL(4), first_frame=True)
    reports = transfer_weights(target, wan)
    assert reports["encoder"].new == 0
    constant = randn(1, 4, 1, 1, 1).expand(1, 4, 1, 8, 8)
    decoder = target.decoder
    assert equal(decoder.first_to_latent(constant[:, :, 0])[:, :, 0, 0], decoder.head(constant)[:, :, 0, 0, 0])
    features = randn(1, 16, 1, 1).expand(1, 16, 8, 8)
    upsample = next(layer for layer in decoder.layers if isinstance(layer, Upsample))
    assert equal(decoder.first_to_frame(features), upsample.upsample_space(features)[:, :, 4:12, 4:12])


def test_new_latent_channels_receive_gradients(wan):
    """With zeros in encoder and decoder, the function would be preserved too, but new channels would stay zero."""
    target = build_tokenizer(KL(12))
    transfer_weights(target, wan)
    x = clip(5)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    before = {name: weight.clone() for name, weight in target.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        (target(x)[0] - x).square().mean().backward()
        optimizer.step()
    change = {name: (weight - before[name]).abs() for name, weight in target.state_dict().items()}
    assert change["decoder.conv_in.weight"][:, 4:].amax(dim=(0, 2, 3, 4)).min() > 0
    assert change["encoder.conv_out.weight"][4:12].flatten(1).amax(dim=1).min() > 0


@pytest.mark.parametrize("wide", [False, True])
@torch.no_grad()
def test_a_discrete_tokenizer_from_a_continuous_one(wan, wide):
    """The networks compute the source's function, with and without log-variances; projections keep a part of the latent."""
    target = build_tokenizer(Projected(FSQ([8, 8, 8]), dim=4, in_dim=8 if wide else 4))
    reports = transfer_weights(target, wan)
    assert reports["bottleneck"].new == (4 * 3 + 3) + (3 * 4 + 4)
    assert reports["encoder"].new == reports["decoder"].new == 0
    x = clip()
    (h,), (expected,) = target.encoder(x), wan.encoder(x)
    assert equal(h[:, :4], expected[:, :4])
    projected = target.bottleneck
    z = randn(1, 4000, 4)
    quantized = projected(torch.cat([z, z], dim=-1)[..., : projected.in_dim]).z
    round_trip = projected.up.weight @ projected.down.weight
    torch.testing.assert_close(round_trip @ round_trip, round_trip)  # a projection to three of the four channels
    torch.testing.assert_close(round_trip.trace(), torch.tensor(3.0, dtype=torch.float64))
    assert (quantized - z @ round_trip).square().sum() / (z @ round_trip).square().sum() < 0.15


@torch.no_grad()
def test_a_joint_tokenizer_from_a_joint_one_copies_the_projections():
    source, target = build_tokenizer(joint(4), seed=3), build_tokenizer(joint(6))
    reports = transfer_weights(target, source)
    assert total(reports, "new") == 0
    assert reports["bottleneck"].copied == 3
    x = clip()
    ours, theirs = (tokenizer.as_discrete().encode(x) for tokenizer in (target, source))
    assert torch.equal(ours.code.ids, theirs.code.ids)
    assert equal(target(x)[0], source(x)[0])
    same = build_tokenizer(joint(4))
    assert total(transfer_weights(same, source), "copied") == sum(p.numel() for p in same.parameters())
    assert torch.equal(same(x)[0], source(x)[0])


def test_the_source_is_not_changed(wan):
    before = copy.deepcopy(wan.state_dict())
    transfer_weights(build_tokenizer(joint(8), blocks=2, first_frame=True), wan)
    assert all(torch.equal(weight, before[name]) for name, weight in wan.state_dict().items())


def test_other_families_and_widths_are_rejected(wan, small):
    with pytest.raises(SmaltiError, match="WeTokEncoder"):
        transfer_weights(small(), wan)
    with pytest.raises(SmaltiError, match="WeTokEncoder"):
        transfer_weights(wan, small())
    with pytest.raises(SmaltiError, match="set channels to 8"):
        transfer_weights(build_tokenizer(KL(4), channels=16), wan)
