"""OneVAE's networks start as a linear codec: on real clips and images, whole and in chunks, with and without norms."""

import pytest
import torch

from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.linear_start.causal_components import CausalComponents
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.linear_start.start import start_as_linear_codec
from smalti.tokenizers.models.onevae import onevae

STRIDE = (2, 4, 4)


def quality(tokenizer_or_codec, pixels):
    with torch.no_grad():
        if isinstance(tokenizer_or_codec, LinearCodec):
            reconstruction = tokenizer_or_codec.reconstruct(pixels)
        else:
            reconstruction = tokenizer_or_codec(pixels)[0]
    return float(mean_over_frames(psnr, pixels_to_uint8(pixels), pixels_to_uint8(reconstruction)).mean())


def build(bottleneck, **options):
    torch.manual_seed(0)
    sizes = {"channels": 8, "multipliers": [1, 2, 4], "blocks": 1} | options
    return onevae(bottleneck, STRIDE, **sizes).eval()


def joint():
    return Joint(KL(12), Projected(FSQ([8, 8, 5, 5, 3, 3], 2), dim=12, in_dim=24))


@pytest.mark.parametrize("norm", [False, True])
def test_both_branches_start_near_the_linear_codec(batches, norm):
    fitted, held_out = batches
    tokenizer = build(joint(), norm=norm)
    before = {name: weight.shape for name, weight in tokenizer.state_dict().items()}
    config = get_config(tokenizer.encoder), get_config(tokenizer.decoder)
    report = start_as_linear_codec(tokenizer, fitted)
    assert {name: weight.shape for name, weight in tokenizer.state_dict().items()} == before
    assert (get_config(tokenizer.encoder), get_config(tokenizer.decoder)) == config
    assert report.errors["encoder.conv_out"] < 0.1
    mean = quality_of_mean(held_out)
    continuous = quality(tokenizer.as_continuous(), held_out)
    discrete = quality(tokenizer.as_discrete(), held_out)
    codec = quality(LinearCodec.fit(fitted, STRIDE, channels=12), held_out)
    # Interpolation by nearest neighbors costs several dB.
    assert continuous > max(codec - 6, mean + 6)
    assert discrete > mean + 5


def quality_of_mean(clips):
    mean = clips.mean((2, 3, 4), keepdim=True).expand_as(clips)
    return float(mean_over_frames(psnr, pixels_to_uint8(clips), pixels_to_uint8(mean)).mean())


def test_the_decoder_starts_linear_far_outside_the_training_data(batches):
    """SiLU of x minus SiLU of -x is x. Separate weights would bend the colors that the training data lack."""
    tokenizer = build(KL(12), norm=False)
    start_as_linear_codec(tokenizer, batches[0])
    tokenizer.double()
    a, b = torch.randn(2, 1, 12, 2, 4, 4, dtype=torch.float64) * 10
    with torch.no_grad():
        whole, part, rest, zero = (tokenizer.decoder((z,)) for z in (a + b, a, b, 0 * a))
    assert (whole - (part + rest - zero)).abs().max() < 1e-5 * whole.abs().max()  # the pairs are fitted in float32


def test_chunks_equal_the_whole(batches):
    fitted, held_out = batches
    tokenizer = build(KL(8)).double()
    start_as_linear_codec(tokenizer.float(), fitted)
    tokenizer, x = tokenizer.double(), held_out[:1].double()
    with torch.no_grad():
        whole = tokenizer.encode(x, chunk=1000)
        parts = list(tokenizer.encode_stream(x.split([1, 4, 4], dim=2)))
        pixels = torch.cat(list(tokenizer.decode_stream(parts)), dim=2)
        expected = tokenizer.decode(whole, chunk=1000)
    assert (pixels - expected).abs().max() < 1e-9


def test_images_alone_are_enough(batches):
    _, held_out = batches
    images = held_out[:, :, 0]
    tokenizer = build(KL(12))
    start_as_linear_codec(tokenizer, [images])
    assert quality(tokenizer, images) > quality_of_mean(images.unsqueeze(2)) + 4


@pytest.mark.parametrize(
    "options",
    [{"multipliers": [1, 2, 2]}, {"multipliers": [1, 1, 1], "channels": 4}, {"norm": True, "multipliers": [2, 2, 2]}],
)
def test_levels_of_equal_width_have_no_shortcut_that_could_change_the_components(batches, options):
    fitted, held_out = batches
    tokenizer = build(FSQ([8, 8, 8, 5, 5], 1), **options)
    start_as_linear_codec(tokenizer, fitted)
    assert quality(tokenizer, held_out) > quality_of_mean(held_out) + 2


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("multipliers", [[1, 2, 4], [1, 2, 2]], ids=["shortcut", "no shortcut"])
def test_a_separate_grid_makes_the_first_frame_better_and_the_others_not_worse(batches, norm, multipliers):
    fitted, held_out = batches
    first, rest = [], []
    for first_frame in (False, True):
        tokenizer = build(joint(), norm=norm, multipliers=multipliers, channels=16, first_frame=first_frame)
        start_as_linear_codec(tokenizer, fitted)
        with torch.no_grad():
            errors = (tokenizer(held_out)[0] - held_out).square().mean((0, 1, 3, 4))
        first.append(float(errors[0]))
        rest.append(float(errors[1:].mean()))
        assert quality(tokenizer, held_out) > quality_of_mean(held_out) + 4
    assert first[1] < 0.8 * first[0]
    assert rest[1] < 1.2 * rest[0]


def test_the_first_frame_of_images_and_clips_starts_the_same(batches):
    fitted, held_out = batches
    tokenizer = build(KL(8), first_frame=True)
    start_as_linear_codec(tokenizer, fitted)
    tokenizer, x = tokenizer.double(), held_out[:1].double()
    with torch.no_grad():
        assert (tokenizer(x)[0][:, :, 0] - tokenizer(x[:, :, 0])[0]).abs().max() < 1e-9
        parts = list(tokenizer.encode_stream(x.split([1, 4, 4], dim=2)))
        pixels = torch.cat(list(tokenizer.decode_stream(parts)), dim=2)
        expected = tokenizer.decode(tokenizer.encode(x, chunk=1000), chunk=1000)
    assert (pixels - expected).abs().max() < 1e-9


def test_images_alone_start_the_grid_of_the_first_frame(batches):
    images = batches[1][:, :, 0]
    tokenizer = build(KL(12), first_frame=True)
    start_as_linear_codec(tokenizer, [images])
    assert quality(tokenizer, images) > quality_of_mean(images.unsqueeze(2)) + 4


def test_moving_components_of_the_first_frame_are_zero(batches):
    components = CausalComponents(Pyramid([batches[0][0]]))
    layout = components.choose(STRIDE, 40)
    (targets,) = components.targets(layout)
    assert 0 < layout.still < 40
    assert layout.still + layout.moving == 40
    assert targets[:, layout.still :, 0].abs().max() < 0.2 * targets[:, layout.still :].abs().max()
    still = components.choose((1, 4, 4), 40, still=layout.still)
    (before,) = components.targets(still)
    assert torch.allclose(before[:, : layout.still, 0], targets[:, : layout.still, 0])
