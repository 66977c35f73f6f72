"""LTX-Video's networks compute what the published code computes, stream exactly, and own their noise."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers import LTXDecoder, LTXEncoder, Tokenizer
from smalti.tokenizers.base import StreamState
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.models.ltx.space_to_depth import depth_to_space, space_to_depth

STRIDED = [["res_x", {}], ["compress_all", {}], ["res_x_y", {}], ["compress_time", {}], ["compress_space", {}]]
STRIDED += [["res_x", {}], ["compress_all", {}], ["res_x", {"num_layers": 2}]]
FOLDED = [["res_x", {}], ["compress_space_res", {}], ["compress_time_res", {}], ["res_x", {}]]
FOLDED += [["compress_all_res", {}], ["compress_all_res", {}], ["res_x", {}]]
UNFOLDED = [["res_x", {"inject_noise": True}], ["compress_all", {"multiplier": 2, "residual": True}]]
UNFOLDED = UNFOLDED * 3 + [["res_x", {}]]
# A chunk's convolutions add in another order than a whole clip's; either is about 1e-6 from the result in float64.
TOLERANCES = ((torch.float32, 2e-6), (torch.float64, 1e-12))
DENOISING = {"timestep": 0.05, "noise": 0.3, "training_noise": [0.0, 0.2]}


def relative(ours, theirs):
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def apart(ours, theirs):
    """The greatest difference, in units of the greatest magnitude or of 1."""
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1))


def alive(network):
    """The network with every parameter away from where it starts, so that none is without effect."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim != 5:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    return {
        "strided": alive(LTXEncoder(7, 8, STRIDED)),
        "folded": alive(LTXEncoder(7, 8, FOLDED, padding="replicate")),
    }


@pytest.fixture(scope="module")
def decoders():
    torch.manual_seed(0)
    return {
        "plain": alive(LTXDecoder(6, 4, STRIDED)),
        "causal": alive(LTXDecoder(6, 4, STRIDED, causal=True)),
        "denoising": alive(LTXDecoder(6, 4, UNFOLDED, padding="replicate", **DENOISING)),
        "causal_denoising": alive(LTXDecoder(6, 4, UNFOLDED, causal=True, **DENOISING)),
    }


def in_chunks(network, x, lengths):
    """What a network gives for a clip that comes in chunks of these lengths."""
    state, pieces, place = StreamState(), [], 0
    with torch.no_grad():
        for n, length in enumerate(lengths):
            state.last = n + 1 == len(lengths)
            pieces.append(network(x[:, :, place : place + length], state))
            place += length
    assert place == x.shape[2]
    return torch.cat(pieces, dim=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("file", ["ltx_v090", "ltx_v095"])
def test_agrees_with_the_published_code(file, request):
    vectors = request.getfixturevalue(file)
    tokenizer = from_published("ltx", vectors.config, vectors.state_dict)
    (grid,) = tokenizer.encoder(vectors["input"])
    mean, log_variance = grid.split([16, 1], dim=1)
    assert relative(mean, vectors["latent_mean"]) < 2e-5
    assert relative(log_variance.expand_as(mean), vectors["latent_logvar"]) < 2e-5
    latents = tokenizer.encode(vectors["input"])
    assert relative(latents.to_grids()[0], vectors["latent_mean"]) < 2e-5
    if file == "ltx_v095":
        # The vectors were made without noise, at a time that the decoder was told.
        tokenizer.decoder.timestep, tokenizer.decoder.noise = float(vectors["timestep"]), 0.0
    assert relative(tokenizer.decode(latents), vectors["reconstruction"]) < 2e-5


@pytest.mark.parametrize("name", ["strided", "folded"])
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_the_encoder_streams_exactly(encoders, name, data):
    encoder = encoders[name]
    frames = data.draw(st.sampled_from([1, 9, 17, 33]))
    cuts = sorted(data.draw(st.sets(st.integers(0, frames // 8 - 1)))) if frames > 1 else []
    edges = [0, *(1 + 8 * cut for cut in cuts), frames]
    lengths = [after - before for before, after in pairwise(edges)]
    x = torch.rand(1, 3, frames, 32, 64, generator=seeded()) * 2 - 1
    for dtype, tolerance in TOLERANCES:
        encoder.to(dtype)
        (whole,) = encoder(x.to(dtype))
        assert whole.shape == (1, 7, 1 + frames // 8, 1, 2)
        assert apart(in_chunks(lambda c, s: encoder(c, s)[0], x.to(dtype), lengths), whole) <= tolerance


@pytest.mark.parametrize("name", ["plain", "causal", "denoising", "causal_denoising"])
@given(lengths=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_the_decoder_streams_exactly(decoders, name, lengths, seed):
    decoder = decoders[name]
    z = torch.randn(2, 6, sum(lengths), 1, 2, generator=seeded())
    for dtype, tolerance in TOLERANCES:
        decoder.to(dtype)
        whole = decoder((z.to(dtype),), seeded(seed))
        assert whole.shape == (2, 3, 8 * sum(lengths) - 7, 32, 64)
        generator = seeded(seed)
        streamed = in_chunks(lambda c, s, g=generator: decoder((c,), g, s), z.to(dtype), lengths)
        assert apart(streamed, whole) <= tolerance


@pytest.mark.parametrize("name", ["plain", "causal", "denoising"])
def test_what_a_stream_keeps_does_not_grow(decoders, name):
    decoder, state, held = decoders[name].to(torch.float32), StreamState(), []
    with torch.no_grad():
        for _ in range(20):  # by then a decoder that looks ahead has filled its layers
            decoder((torch.randn(1, 6, 1, 1, 1),), None, state)
            held.append(sum(x.untyped_storage().nbytes() for x in state._kept.values()))
    assert held[-1] == held[-2] == held[-4]


def test_causal_means_that_no_frame_is_seen_before_its_time(encoders, decoders):
    x = torch.rand(1, 3, 17, 32, 32) * 2 - 1
    later = torch.cat([x[:, :, :9], -x[:, :, 9:]], dim=2)
    encoder = encoders["folded"].to(torch.float32)
    assert torch.equal(encoder(x)[0][:, :, :2], encoder(later)[0][:, :, :2])
    z = torch.randn(1, 6, 3, 1, 1)
    changed = torch.cat([z[:, :, :2], -z[:, :, 2:]], dim=2)
    causal, plain = decoders["causal"].to(torch.float32), decoders["plain"].to(torch.float32)
    assert torch.equal(causal((z,))[:, :, :9], causal((changed,))[:, :, :9])
    assert not torch.equal(plain((z,))[:, :, :9], plain((changed,))[:, :, :9])


def tokenizer_of(bottleneck=None, **options):
    bottleneck = bottleneck or KL(6, shared_log_variance=True)
    decoder = LTXDecoder(bottleneck.out_dim, 4, UNFOLDED if options else STRIDED, **options)
    return Tokenizer(LTXEncoder(bottleneck.in_dim, 4, FOLDED), bottleneck, decoder)


@pytest.mark.parametrize("shape", [(1, 3, 33, 50), (2, 3, 1, 32, 32), (1, 3, 2, 31, 33), (1, 3, 12, 64, 40)])
@pytest.mark.parametrize("chunk", [None, 8])
def test_any_length_and_any_size(shape, chunk):
    tokenizer = tokenizer_of(**DENOISING).eval()
    x = torch.rand(shape) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x, chunk)
        whole = tokenizer.decode(latents, seeded())
        assert whole.shape == x.shape
        torch.testing.assert_close(tokenizer.decode(latents, seeded(), chunk), whole, rtol=0, atol=2e-6)


def test_an_image_is_the_first_frame_of_a_clip(encoders):
    encoder = encoders["strided"].to(torch.float32)
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    assert apart(encoder(x[:, :, :1])[0], encoder(x)[0][:, :, :1]) <= 2e-6


@pytest.mark.parametrize("blocks", [FOLDED, None])
def test_a_fresh_network_sees_brightness_though_pixel_norm_takes_magnitudes_away(blocks):
    torch.manual_seed(0)
    encoder, decoder = LTXEncoder(16, 24, blocks), LTXDecoder(16, 16, blocks and UNFOLDED)
    with torch.no_grad():
        dark, middle, light = (decoder(encoder(torch.full((1, 3, 9, 32, 32), level))) for level in (0.2, 0.4, 0.6))
    assert (light - dark).std() > 0.02 * dark.std()
    # Nearly a linear map: the middle is in the middle.
    assert (middle - (light + dark) / 2).std() < 0.2 * (light - dark).std()


def test_a_seed_decides_the_noise(decoders):
    z = torch.randn(1, 6, 2, 1, 1)
    assert not decoders["plain"].generative
    decoder = decoders["denoising"].to(torch.float32)
    assert decoder.generative
    assert torch.equal(decoder((z,), seeded(0)), decoder((z,), seeded(0)))
    assert not torch.equal(decoder((z,), seeded(0)), decoder((z,), seeded(1)))


def test_all_noise_forgets_the_latent_but_for_its_statistics():
    torch.manual_seed(0)
    decoder = alive(LTXDecoder(6, 4, STRIDED, timestep=0.05, noise=1.0))
    z = torch.randn(1, 6, 1, 1, 1)
    assert relative(decoder((z,), seeded()), decoder((-z,), seeded())) <= 1e-6
    before = decoder((z,), seeded())
    decoder.statistics.mean.fill_(2.0)
    decoder.statistics.std.zero_()
    assert relative(before, decoder((z,), seeded())) > 1e-2
    decoder.noise = 0.0
    expected = decoder((torch.full_like(z, 2.0),), seeded())
    decoder.noise = 1.0
    assert relative(decoder((z,), seeded()), expected) <= 1e-6


def test_statistics_are_stored_and_invert():
    decoder = LTXDecoder(6, 4, STRIDED)
    assert {"statistics.mean", "statistics.std"} <= decoder.state_dict().keys()
    z = torch.randn(2, 6, 3, 2, 2)
    assert torch.equal(decoder.statistics.normalized(z), z)
    decoder.statistics.mean.copy_(torch.arange(6.0))
    decoder.statistics.std.fill_(4.0)
    normalized = decoder.statistics.normalized(z)
    assert torch.equal(normalized[:, 3], (z[:, 3] - 3) / 4)
    torch.testing.assert_close(decoder.statistics.denormalized(normalized), z)


def test_training_draws_a_time_for_each_sample(monkeypatch):
    torch.manual_seed(0)
    decoder = alive(LTXDecoder(6, 4, STRIDED, timestep=0.05, noise=0.0, training_noise=[0.1, 0.2]))
    z = torch.randn(1, 6, 1, 1, 1).repeat(2, 1, 1, 1, 1)
    same = decoder((z,))
    assert torch.equal(same[0], same[1])
    seen = []
    original = LTXDecoder._strength_and_time
    monkeypatch.setattr(LTXDecoder, "_strength_and_time", lambda *a: seen.append(original(*a)) or seen[-1])
    decoder.train()
    one, other = decoder((z,), seeded(0)), decoder((z,), seeded(1))
    assert torch.equal(one, decoder((z,), seeded(0)))
    assert not torch.equal(one, other)
    strengths = torch.stack([strength for strength, _ in seen])
    assert ((strengths >= 0.1) & (strengths <= 0.2)).all()
    assert len(strengths[:2].unique()) == 4


def test_the_time_is_told():
    torch.manual_seed(0)
    early, late = (alive(LTXDecoder(6, 4, UNFOLDED, timestep=t)) for t in (0.05, 0.1))
    late.load_state_dict(early.state_dict())
    z = torch.randn(1, 6, 1, 1, 1)
    assert relative(early((z,), seeded()), late((z,), seeded())) > 1e-3


def test_a_discrete_bottleneck_stands_on_the_same_networks():
    tokenizer = tokenizer_of(FSQ([8, 8, 8], 2), **DENOISING).eval()
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.tokenize(x)
        assert tokens.ids.shape == (1, 2, 2)
        assert torch.equal(tokenizer.detokenize(tokens, seeded()), tokenizer.decode(tokenizer.encode(x), seeded()))


@pytest.mark.parametrize("recompute", [False, True])
def test_images_alone_train_every_parameter(recompute):
    from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing

    torch.manual_seed(0)
    tokenizer = tokenizer_of(**DENOISING).train()
    if recompute:
        assert enable_activation_checkpointing(tokenizer) > 0
    pixels, latents = tokenizer(torch.rand(2, 3, 32, 32) * 2 - 1)
    (pixels.square().mean() + latents.code.losses["kl"]).backward()
    assert [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_gradients_do_not_depend_on_recomputing():
    from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing

    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        decoder = alive(LTXDecoder(6, 4, UNFOLDED, **DENOISING)).train()
        if recompute:
            enable_activation_checkpointing(decoder)
        decoder((torch.ones(1, 6, 2, 1, 1),), seeded()).square().mean().backward()
        grads.append([p.grad for p in decoder.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*grads, strict=True))


def test_fresh_networks_learn_a_clip():
    torch.manual_seed(0)
    tokenizer = tokenizer_of().train()
    time, row = torch.linspace(0, 3, 9)[:, None, None], torch.linspace(0, 6, 32)[:, None]
    clip = torch.sin(time + row + torch.linspace(0, 4, 32)).expand(1, 3, -1, -1, -1)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = (tokenizer(clip)[0] - clip).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_parts_come_back_from_their_recipes():
    tokenizer = tokenizer_of(**DENOISING)
    again = from_config(json.loads(json.dumps(get_config(tokenizer))))
    again.load_state_dict(tokenizer.state_dict())
    assert (again.decoder.timestep, again.decoder.noise) == (0.05, 0.3)
    assert again.encoder.stride == (8, 32, 32)
    assert again.encoder.padded_size((1, 1, 33)) == (1, 32, 64)
    assert again.encoder.padded_size((10, 32, 32)) == (17, 32, 32)


@given(st.tuples(*[st.integers(1, 3)] * 6))
@settings(max_examples=20, deadline=None)
def test_blocks_to_channels_inverts(sizes):
    t, h, w, *block = sizes
    x = torch.randn(2, 3, t * block[0], h * block[1], w * block[2])
    folded = space_to_depth(x, tuple(block))
    assert folded.shape == (2, 3 * block[0] * block[1] * block[2], t, h, w)
    # Channels are ordered (channel, frame, row, column) of the block.
    assert torch.equal(
        folded[:, -1], x[:, 2, block[0] - 1 :: block[0], block[1] - 1 :: block[1], block[2] - 1 :: block[2]]
    )
    assert torch.equal(depth_to_space(folded, tuple(block)), x)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([["res_y", {}]], "res_y"),
        ([["res_x", {"layers": 2}]], "layers"),
        ([["res_x", {"num_layers": 0}]], "at least 1"),
        ([["res_x", {"num_layers": True}]], "at least 1"),
        (["res_x"], "num_layers"),
        ([["compress_all_res", {"multiplier": 3}]], "share out"),
    ],
)
def test_impossible_encoders_are_refused(blocks, words):
    with pytest.raises(SmaltiError, match=words):
        LTXEncoder(7, 4, blocks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": [["compress_all_res", {}]]}, "compress_all_res"),
        ({"blocks": [["compress_all", {"residual": 1}]]}, "true or false"),
        ({"blocks": [["compress_all", {"residual": True}]]}, "share out"),
        ({"noise": 0.1}, "timestep"),
        ({"timestep": 0.05, "noise": 1.5}, "noise"),
        ({"timestep": 0.05, "training_noise": [0.2, 0.1]}, "training_noise"),
        ({"channels": 0}, "channels"),
    ],
)
def test_impossible_decoders_are_refused(options, words):
    with pytest.raises(SmaltiError, match=words):
        LTXDecoder(6, **{"channels": 4, **options})
