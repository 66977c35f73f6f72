"""OneVAE from Wan's weights, and from each other's: the function stays where it can, and the report says what was taken."""

import copy

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.base import StreamState
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.onevae import build, build_wan
from smalti.tokenizers.models.onevae.weight_transfer import match_levels, summarize, transfer_weights

WAN = {
    "dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}
LIKE_WAN = {"channels": 8, "multipliers": [1, 2, 2], "strides": [[1, 2], [2, 2]], "blocks": 1}


def networks(bottleneck, seed=1, **shape):
    torch.manual_seed(seed)
    shape = LIKE_WAN | shape
    z = bottleneck.out_dim
    tokenizer = Tokenizer(OneVAEEncoder(bottleneck.in_dim, **shape), bottleneck, OneVAEDecoder(z, **shape))
    return tokenizer.eval()


def joint(z):
    return Joint(KL(z), Projected(FSQ([8, 8, 8]), dim=z, in_dim=2 * z))


@pytest.fixture(scope="module")
def wan():
    """A continuous tokenizer like Wan2.1's, in which every weight counts."""
    tokenizer = networks(KL(4), seed=0)
    for parameter in tokenizer.parameters():  # biases and scales too, which start at 0 and 1
        parameter.data += 0.05 * torch.randn_like(parameter)
    return tokenizer


def clip(frames=9, size=16):
    return torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def alike(ours, theirs):
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() <= 1e-5)


def total(adopted, kind):
    return sum(getattr(part, kind) for part in adopted.values())


@torch.no_grad()
def test_larger_latents_keep_the_function_of_diffusers_own():
    """Random weights of AutoencoderKLWan, through diffusers, against a joint 4x8x8 OneVAE of twelve times the latent."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    config = {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_scales": [],
        "temperal_downsample": [False, True, True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    }  # fmt: skip
    theirs = diffusers.AutoencoderKLWan(**config).eval()
    x = clip(9, 32)
    expected = theirs.decode(theirs.encode(x).latent_dist.mode()).sample
    source = from_published("diffusers", {"_class_name": "AutoencoderKLWan", **config}, theirs.state_dict())
    target = networks(joint(48), multipliers=[1, 2, 4, 4], strides=[[1, 2], [2, 2], [2, 2]])
    assert target.encoder.stride == (4, 8, 8)
    transfer_weights(target, source)
    latents = target.as_continuous().encode(x)
    assert expected.abs().max() > 0.1
    # diffusers clamps what it decodes
    assert alike(target.as_continuous().decode(latents).clamp(-1, 1), expected)
    assert alike(latents.z[..., :4], source.encode(x).z)


def test_the_published_models_take_what_their_authors_took(manifests):
    """81616 from Wan2.1: 167.6M of 176.6M parameters and 8.3M in part; by name and shape alone, 118.8M."""
    with torch.device("meta"):
        source = build_wan(WAN)
        target = build(manifests["OneVAE_64000_FSQ_81616_33_mt2_fe"]["config"])
    theirs = source.state_dict()
    alone = [w.numel() for n, w in target.state_dict().items() if n in theirs and theirs[n].shape == w.shape]
    assert round(sum(alone) / 1e6, 1) == 118.8
    adopted = transfer_weights(target, source)
    assert [round(total(adopted, kind) / 1e6, 1) for kind in ("taken", "sliced")] == [167.6, 8.3]
    # New are the two convolutions of the first frame's grid, and the projections around the quantizer.
    first = (256 * 256 * 9 + 256) + (384 * 192 + 192)
    assert total(adopted, "new") == first + (256 * 12 + 12) + (12 * 256 + 256)
    assert sum(total(adopted, kind) for kind in ("taken", "sliced", "new")) == 176_579_055
    assert summarize(adopted).startswith(
        "all: 167,617,059 (94.9%) taken, 8,291,584 (4.7%) sliced, 670,412 (0.4%) new; encoder: "
    )


def test_levels_are_paired_as_the_authors_did():
    widths = {"encoder": [(96, 96), (96, 192), (192, 384), (384, 384)], "decoder": [(96, 96), (192, 192), (192, 384)]}
    assert match_levels([*widths["encoder"], (384, 384)], widths["encoder"]) == [0, 1, 2, 3, 3]
    deep = [(192, 384), (384, 384)]
    assert match_levels([*widths["decoder"], *deep], [*widths["decoder"], (384, 384)]) == [0, 1, 2, 2, 3]


def test_a_further_level_is_a_copy_of_the_deepest_of_its_widths():
    strides = [[1, 2], [2, 2], [2, 2]]
    source = networks(KL(4), multipliers=[1, 2, 4, 4], strides=strides, seed=0)
    target = networks(KL(4), multipliers=[1, 2, 4, 4, 4], strides=[*strides, [2, 2]])
    adopted = transfer_weights(target, source)
    assert total(adopted, "sliced") == total(adopted, "new") == 0
    # Encoder: a block and a change a level, from the pixels; decoder: two blocks and a change, from the latent.
    for part, places in (
        ("encoder", [0, 1, 2, 3, 4, 5, 6, 5, 6]),
        ("decoder", [0, 1, 2, 3, 4, 5, 3, 4, *range(5, 11)]),
    ):
        ours, theirs = getattr(target, part).layers, getattr(source, part).layers
        for layer, place in zip(ours, places, strict=True):
            expected = theirs[place].state_dict()
            assert all(torch.equal(weight, expected[name]) for name, weight in layer.state_dict().items())


@torch.no_grad()
def test_an_image_does_not_notice_new_strides_in_time_and_new_blocks(wan):
    """The first frame passes each change of frames alone; a fresh residual block is the identity."""
    target = networks(KL(4), strides=[[2, 2], [2, 2]], blocks=2)
    adopted = transfer_weights(target, wan)
    assert all(adopted[part].new > 0 for part in ("encoder", "decoder"))
    x = clip(1)[:, :, 0]
    assert alike(target(x)[0], wan(x)[0])


@torch.no_grad()
def test_new_strides_in_time_start_as_the_mean_of_two_frames_and_as_each_twice(wan):
    target = networks(KL(4), strides=[[2, 2], [2, 2]])
    transfer_weights(target, wan)
    down, plain_down = (t.encoder.layers[1] for t in (target, wan))
    up, plain_up = (t.decoder.layers[5] for t in (target, wan))
    x = torch.randn(1, 8, 9, 8, 8)
    pairs = torch.cat([x[:, :, :1], torch.stack([x[:, :, 1:] - 0.5, x[:, :, 1:] + 0.5], dim=3).flatten(2, 3)], dim=2)
    assert alike(down(pairs, StreamState(last=True)), plain_down(x, StreamState(last=True)))
    features = torch.randn(1, 16, 3, 4, 4)
    assert alike(up(features, StreamState(last=True)), plain_up(features[:, :, [0, 1, 1, 2, 2]], StreamState(last=True)))


@torch.no_grad()
def test_the_first_frames_grid_starts_as_the_other_layers_see_it(wan):
    target = networks(KL(4), first_frame=True)
    adopted = transfer_weights(target, wan)
    assert adopted["encoder"].new == 0
    even = torch.randn(1, 4, 1, 1, 1).expand(1, 4, 1, 8, 8)
    decoder = target.decoder
    assert alike(decoder.first_to_latent(even[:, :, 0])[:, :, 0, 0], decoder.head(even)[:, :, 0, 0, 0])
    features = torch.randn(1, 16, 1, 1).expand(1, 16, 8, 8)
    up = next(layer for layer in decoder.layers if hasattr(layer, "space"))
    assert alike(decoder.first_to_frame(features), up._larger(features)[:, :, 4:12, 4:12])


def test_new_channels_can_learn(wan):
    """Zero on both sides would keep the function too, and would stay zero for ever."""
    target = networks(KL(12))
    transfer_weights(target, wan)
    x = clip(5)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    start = {name: weight.clone() for name, weight in target.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        (target(x)[0] - x).square().mean().backward()
        optimizer.step()
    moved = {name: (weight - start[name]).abs() for name, weight in target.state_dict().items()}
    assert moved["decoder.conv_in.weight"][:, 4:].amax(dim=(0, 2, 3, 4)).min() > 0
    assert moved["encoder.conv_out.weight"][4:12].flatten(1).amax(dim=1).min() > 0


@pytest.mark.parametrize("wide", [False, True])
@torch.no_grad()
def test_discrete_from_continuous_weights(wan, wide):
    """The networks are the source's, whether the log-variances stay or go; the projections keep a part of the latent."""
    target = networks(Projected(FSQ([8, 8, 8]), dim=4, in_dim=8 if wide else 4))
    adopted = transfer_weights(target, wan)
    assert adopted["bottleneck"].new == (4 * 3 + 3) + (3 * 4 + 4)
    assert adopted["encoder"].new == adopted["decoder"].new == 0
    x = clip()
    (h,), (expected,) = target.encoder(x), wan.encoder(x)
    assert alike(h[:, :4], expected[:, :4])
    projected = target.bottleneck
    z = torch.randn(1, 4000, 4, generator=torch.Generator().manual_seed(0))
    through = projected(torch.cat([z, z], dim=-1)[..., : projected.in_dim]).z
    round_trip = projected.up.weight @ projected.down.weight
    torch.testing.assert_close(round_trip @ round_trip, round_trip)  # a projection, onto three of the four channels
    torch.testing.assert_close(round_trip.trace(), torch.tensor(3.0))
    assert (through - z @ round_trip).square().sum() / (z @ round_trip).square().sum() < 0.15


@torch.no_grad()
def test_joint_from_joint_takes_the_projections_too(wan):
    source, target = networks(joint(4), seed=3), networks(joint(6))
    adopted = transfer_weights(target, source)
    assert total(adopted, "new") == 0
    assert adopted["bottleneck"].taken == 3
    x = clip()
    ours, theirs = (t.as_discrete().encode(x) for t in (target, source))
    assert torch.equal(ours.code.ids, theirs.code.ids)
    assert alike(target(x)[0], source(x)[0])
    same = networks(joint(4))
    assert total(transfer_weights(same, source), "taken") == sum(p.numel() for p in same.parameters())
    assert torch.equal(same(x)[0], source(x)[0])


def test_the_source_is_untouched(wan):
    before = copy.deepcopy(wan.state_dict())
    transfer_weights(networks(joint(8), blocks=2, first_frame=True), wan)
    assert all(torch.equal(weight, before[name]) for name, weight in wan.state_dict().items())


def test_other_families_and_widths_are_refused(wan, small):
    with pytest.raises(SmaltiError, match="WeTokEncoder"):
        transfer_weights(small(), wan)
    with pytest.raises(SmaltiError, match="WeTokEncoder"):
        transfer_weights(wan, small())
    with pytest.raises(SmaltiError, match="channels 8"):
        transfer_weights(networks(KL(4), channels=16), wan)
