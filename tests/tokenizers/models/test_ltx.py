"""LTX-Video's networks: agreement with the published code, streaming, noise, timestep conditioning."""

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
from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing
from smalti.tokenizers.models.ltx.space_to_depth import depth_to_space, space_to_depth

STRIDED = [["res_x", {}], ["compress_all", {}], ["res_x_y", {}], ["compress_time", {}], ["compress_space", {}]]
STRIDED += [["res_x", {}], ["compress_all", {}], ["res_x", {"num_layers": 2}]]
FOLDED = [["res_x", {}], ["compress_space_res", {}], ["compress_time_res", {}], ["res_x", {}]]
FOLDED += [["compress_all_res", {}], ["compress_all_res", {}], ["res_x", {}]]
UNFOLDED = [["res_x", {"inject_noise": True}], ["compress_all", {"multiplier": 2, "residual": True}]]
UNFOLDED = UNFOLDED * 3 + [["res_x", {}]]
DTYPES = (torch.float32, torch.float64)
DENOISING = {"timestep": 0.05, "noise": 0.3, "training_noise": [0.0, 0.2]}


def relative(ours, theirs):
    """Return the maximum difference, relative to the second's magnitude."""
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def perturb(network):
    """Add noise to biases, scales and tables: at their initial values (0 or 1) some would have no effect."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim != 5:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    return {
        "strided": perturb(LTXEncoder(7, 8, STRIDED)),
        "folded": perturb(LTXEncoder(7, 8, FOLDED, padding="replicate")),
    }


@pytest.fixture(scope="module")
def decoders():
    torch.manual_seed(0)
    return {
        "plain": perturb(LTXDecoder(6, 4, STRIDED)),
        "causal": perturb(LTXDecoder(6, 4, STRIDED, causal=True)),
        "denoising": perturb(LTXDecoder(6, 4, UNFOLDED, padding="replicate", **DENOISING)),
        "causal_denoising": perturb(LTXDecoder(6, 4, UNFOLDED, causal=True, **DENOISING)),
    }


def run_in_chunks(network, x, lengths):
    """Return the output of a network for a clip in chunks of these lengths."""
    state, outputs, start = StreamState(), [], 0
    with torch.no_grad():
        for n, length in enumerate(lengths):
            state.last = n + 1 == len(lengths)
            outputs.append(network(x[:, :, start : start + length], state))
            start += length
    assert start == x.shape[2]
    return torch.cat(outputs, dim=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("file", ["ltx_v090", "ltx_v095"])
def test_agrees_with_the_published_code(file, request):
    """Both compute in float32: 2e-5 is about half of what rounding errors of this depth can add up to."""
    vectors = request.getfixturevalue(file)
    tokenizer = from_published("ltx", vectors.config, vectors.state_dict)
    (grid,) = tokenizer.encoder(vectors["input"])
    mean, log_variance = grid.split([16, 1], dim=1)
    assert relative(mean, vectors["latent_mean"]) < 2e-5
    assert relative(log_variance.expand_as(mean), vectors["latent_logvar"]) < 2e-5
    latents = tokenizer.encode(vectors["input"])
    assert relative(latents.to_grids()[0], vectors["latent_mean"]) < 2e-5
    if file == "ltx_v095":
        # The published code was run without noise, at the timestep in the file.
        tokenizer.decoder.timestep, tokenizer.decoder.noise = float(vectors["timestep"]), 0.0
    assert relative(tokenizer.decode(latents), vectors["reconstruction"]) < 2e-5


@pytest.mark.parametrize("name", ["strided", "folded"])
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_the_encoder_streams_exactly(encoders, tolerance, difference, name, data):
    encoder = encoders[name]
    frames = data.draw(st.sampled_from([1, 9, 17, 33]))
    cuts = sorted(data.draw(st.sets(st.integers(0, frames // 8 - 1)))) if frames > 1 else []
    edges = [0, *(1 + 8 * cut for cut in cuts), frames]
    lengths = [after - before for before, after in pairwise(edges)]
    x = torch.rand(1, 3, frames, 32, 64, generator=seeded()) * 2 - 1
    for dtype in DTYPES:
        encoder.to(dtype)
        (whole,) = encoder(x.to(dtype))
        assert whole.shape == (1, 7, 1 + frames // 8, 1, 2)
        streamed = run_in_chunks(lambda chunk, state: encoder(chunk, state)[0], x.to(dtype), lengths)
        assert difference(streamed, whole) <= tolerance(dtype, encoder)


@pytest.mark.parametrize("name", ["plain", "causal", "denoising", "causal_denoising"])
@given(lengths=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_the_decoder_streams_exactly(decoders, tolerance, difference, name, lengths, seed):
    decoder = decoders[name]
    z = torch.randn(2, 6, sum(lengths), 1, 2, generator=seeded())
    for dtype in DTYPES:
        decoder.to(dtype)
        whole = decoder((z.to(dtype),), seeded(seed))
        assert whole.shape == (2, 3, 8 * sum(lengths) - 7, 32, 64)
        generator = seeded(seed)
        streamed = run_in_chunks(lambda chunk, state, g=generator: decoder((chunk,), g, state), z.to(dtype), lengths)
        assert difference(streamed, whole) <= tolerance(dtype, decoder)


def stored_bytes(state):
    """Return the bytes of all tensors in a stream's state."""
    stored = sum(x.untyped_storage().nbytes() for x in state._stored.values())
    return stored + sum(stored_bytes(substate) for substate in state._substates.values())


@pytest.mark.parametrize("name", ["plain", "causal", "denoising"])
def test_the_state_of_a_stream_does_not_grow(decoders, name):
    decoder, state, sizes = decoders[name].to(torch.float32), StreamState(), []
    with torch.no_grad():
        for _ in range(20):  # enough to fill all layers of a decoder that looks ahead
            decoder((torch.randn(1, 6, 1, 1, 1),), None, state)
            sizes.append(stored_bytes(state))
    assert sizes[-1] == sizes[-2] == sizes[-4]
    assert sizes[-1] > 0


def test_causal_networks_do_not_depend_on_later_frames(encoders, decoders):
    x = torch.rand(1, 3, 17, 32, 32) * 2 - 1
    later = torch.cat([x[:, :, :9], -x[:, :, 9:]], dim=2)
    encoder = encoders["folded"].to(torch.float32)
    assert torch.equal(encoder(x)[0][:, :, :2], encoder(later)[0][:, :, :2])
    z = torch.randn(1, 6, 3, 1, 1)
    changed = torch.cat([z[:, :, :2], -z[:, :, 2:]], dim=2)
    causal, plain = decoders["causal"].to(torch.float32), decoders["plain"].to(torch.float32)
    assert torch.equal(causal((z,))[:, :, :9], causal((changed,))[:, :, :9])
    assert not torch.equal(plain((z,))[:, :, :9], plain((changed,))[:, :, :9])


def build_tokenizer(bottleneck=None, **options):
    bottleneck = bottleneck or KL(6, shared_log_variance=True)
    decoder = LTXDecoder(bottleneck.out_dim, 4, UNFOLDED if options else STRIDED, **options)
    return Tokenizer(LTXEncoder(bottleneck.in_dim, 4, FOLDED), bottleneck, decoder)


@pytest.mark.parametrize("shape", [(1, 3, 33, 50), (2, 3, 1, 32, 32), (1, 3, 2, 31, 33), (1, 3, 12, 64, 40)])
@pytest.mark.parametrize("chunk", [None, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_length_and_any_size_round_trip(tolerance, difference, shape, chunk, dtype):
    tokenizer = build_tokenizer(**DENOISING).eval().to(dtype)
    x = torch.rand(shape, dtype=dtype) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x, chunk)
        whole = tokenizer.decode(latents, seeded(), chunk=1000)
        assert whole.shape == x.shape
        in_chunks = tokenizer.decode(latents, seeded(), chunk)
        assert difference(in_chunks, whole) <= tolerance(dtype, tokenizer.decoder)


@pytest.mark.parametrize("name", ["strided", "folded"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_is_the_first_frame_of_a_clip(encoders, tolerance, difference, name, dtype):
    encoder = encoders[name].to(dtype)
    x = torch.rand(1, 3, 9, 32, 32, dtype=dtype) * 2 - 1
    assert difference(encoder(x[:, :, :1])[0], encoder(x)[0][:, :, :1]) <= tolerance(dtype, encoder)


@pytest.mark.parametrize("blocks", [FOLDED, None])
def test_a_randomly_initialized_network_preserves_brightness_despite_pixel_norm(blocks):
    torch.manual_seed(0)
    encoder, decoder = LTXEncoder(16, 24, blocks), LTXDecoder(16, 16, blocks and UNFOLDED)
    with torch.no_grad():
        dark, medium, bright = (decoder(encoder(torch.full((1, 3, 9, 32, 32), level))) for level in (0.2, 0.4, 0.6))
    assert (bright - dark).std() > 0.02 * dark.std()
    # Nearly a linear map.
    assert (medium - (bright + dark) / 2).std() < 0.2 * (bright - dark).std()


def test_a_seed_determines_the_noise(decoders):
    z = torch.randn(1, 6, 2, 1, 1)
    assert not decoders["plain"].generative
    decoder = decoders["denoising"].to(torch.float32)
    assert decoder.generative
    assert torch.equal(decoder((z,), seeded(0)), decoder((z,), seeded(0)))
    assert not torch.equal(decoder((z,), seeded(0)), decoder((z,), seeded(1)))


def test_full_noise_keeps_only_the_statistics_of_the_latent():
    torch.manual_seed(0)
    decoder = perturb(LTXDecoder(6, 4, STRIDED, timestep=0.05, noise=1.0)).double()
    z = torch.randn(1, 6, 1, 1, 1, dtype=torch.float64)
    assert relative(decoder((z,), seeded()), decoder((-z,), seeded())) <= 1e-12
    before = decoder((z,), seeded())
    decoder.statistics.mean.fill_(2.0)
    decoder.statistics.std.zero_()
    assert relative(before, decoder((z,), seeded())) > 1e-2
    decoder.noise = 0.0
    expected = decoder((torch.full_like(z, 2.0),), seeded())
    decoder.noise = 1.0
    assert relative(decoder((z,), seeded()), expected) <= 1e-12


def test_statistics_are_saved_and_normalization_inverts():
    decoder = LTXDecoder(6, 4, STRIDED)
    assert {"statistics.mean", "statistics.std"} <= decoder.state_dict().keys()
    z = torch.randn(2, 6, 3, 2, 2)
    assert torch.equal(decoder.statistics.normalize(z), z)
    decoder.statistics.mean.copy_(torch.arange(6.0))
    decoder.statistics.std.fill_(4.0)
    normalized = decoder.statistics.normalize(z)
    assert torch.equal(normalized[:, 3], (z[:, 3] - 3) / 4)
    torch.testing.assert_close(decoder.statistics.denormalize(normalized), z)


def test_training_draws_a_timestep_per_sample(monkeypatch, tolerance, difference):
    torch.manual_seed(0)
    decoder = perturb(LTXDecoder(6, 4, STRIDED, timestep=0.05, noise=0.0, training_noise=[0.1, 0.2]))
    z = torch.randn(1, 6, 1, 1, 1).repeat(2, 1, 1, 1, 1)
    noise_levels = []
    add_noise = LTXDecoder._add_noise

    def record(self, z, noise_level, generator):
        noise_levels.append(noise_level)
        return add_noise(self, z, noise_level, generator)

    same = decoder((z,))
    assert difference(same[0], same[1]) <= tolerance(torch.float32, decoder)
    monkeypatch.setattr(LTXDecoder, "_add_noise", record)
    decoder.train()
    first, second = decoder((z,), seeded(0)), decoder((z,), seeded(1))
    assert torch.equal(first, decoder((z,), seeded(0)))
    assert not torch.equal(first, second)
    drawn = torch.stack(noise_levels)
    assert ((drawn >= 0.1) & (drawn <= 0.2)).all()
    assert len(drawn[:2].unique()) == 4


def test_the_decoder_is_conditioned_on_the_timestep():
    torch.manual_seed(0)
    early, late = (perturb(LTXDecoder(6, 4, UNFOLDED, timestep=t)) for t in (0.05, 0.1))
    late.load_state_dict(early.state_dict())
    z = torch.randn(1, 6, 1, 1, 1)
    assert relative(early((z,), seeded()), late((z,), seeded())) > 1e-3


def test_the_networks_take_a_discrete_bottleneck(difference):
    tokenizer = build_tokenizer(FSQ([8, 8, 8], 2), **DENOISING).eval().double()
    x = torch.rand(1, 3, 9, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.tokenize(x)
        assert tokens.ids.shape == (1, 2, 2)
        expected = tokenizer.decode(tokenizer.encode(x), seeded())
        assert difference(tokenizer.detokenize(tokens, seeded()), expected) <= 1e-12


@pytest.mark.parametrize("checkpointing", [False, True])
def test_images_train_every_parameter(checkpointing):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(**DENOISING).train()
    if checkpointing:
        assert enable_activation_checkpointing(tokenizer) > 0
    pixels, latents = tokenizer(torch.rand(2, 3, 32, 32) * 2 - 1)
    (pixels.square().mean() + latents.code.losses["kl"]).backward()
    assert [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_activation_checkpointing_does_not_change_gradients():
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        decoder = perturb(LTXDecoder(6, 4, UNFOLDED, **DENOISING)).train().double()
        if checkpointing:
            enable_activation_checkpointing(decoder)
        decoder((torch.ones(1, 6, 2, 1, 1, dtype=torch.float64),), seeded()).square().mean().backward()
        grads.append([p.grad for p in decoder.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(*grads, strict=True))


def test_randomly_initialized_networks_learn_a_clip():
    torch.manual_seed(0)
    tokenizer = build_tokenizer().train()
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


def test_networks_are_rebuilt_from_their_config():
    tokenizer = build_tokenizer(**DENOISING)
    rebuilt = from_config(json.loads(json.dumps(get_config(tokenizer))))
    rebuilt.load_state_dict(tokenizer.state_dict())
    assert (rebuilt.decoder.timestep, rebuilt.decoder.noise) == (0.05, 0.3)
    assert rebuilt.encoder.stride == (8, 32, 32)
    assert rebuilt.encoder.padded_size((1, 1, 33)) == (1, 32, 64)
    assert rebuilt.encoder.padded_size((10, 32, 32)) == (17, 32, 32)


@given(st.tuples(*[st.integers(1, 3)] * 6))
@settings(max_examples=20, deadline=None)
def test_depth_to_space_inverts_space_to_depth(sizes):
    t, h, w, *block = sizes
    x = torch.randn(2, 3, t * block[0], h * block[1], w * block[2])
    depth = space_to_depth(x, tuple(block))
    assert depth.shape == (2, 3 * block[0] * block[1] * block[2], t, h, w)
    # Channels are ordered (channel, frame, row, column of the block).
    last = x[:, 2, block[0] - 1 :: block[0], block[1] - 1 :: block[1], block[2] - 1 :: block[2]]
    assert torch.equal(depth[:, -1], last)
    assert torch.equal(depth_to_space(depth, tuple(block)), x)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([["res_y", {}]], "res_y"),
        ([["res_x", {"layers": 2}]], "layers"),
        ([["res_x", {"num_layers": 0}]], "at least 1"),
        ([["res_x", {"num_layers": True}]], "at least 1"),
        (["res_x"], "num_layers"),
        ([["compress_all_res", {"multiplier": 3}]], "divisible"),
    ],
)
def test_invalid_encoders_are_rejected(blocks, message):
    with pytest.raises(SmaltiError, match=message):
        LTXEncoder(7, 4, blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [["compress_all_res", {}]]}, "compress_all_res"),
        ({"blocks": [["compress_all", {"residual": 1}]]}, "true or false"),
        ({"blocks": [["compress_all", {"residual": True}]]}, "divisible"),
        ({"noise": 0.1}, "timestep"),
        ({"timestep": 0.05, "noise": 1.5}, "noise"),
        ({"timestep": 0.05, "training_noise": [0.2, 0.1]}, "training_noise"),
        ({"channels": 0}, "channels"),
    ],
)
def test_invalid_decoders_are_rejected(options, message):
    with pytest.raises(SmaltiError, match=message):
        LTXDecoder(6, **{"channels": 4, **options})
