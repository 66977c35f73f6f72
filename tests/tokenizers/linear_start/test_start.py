"""Tokenizers that start as a linear codec are close to it before the first step, with every bottleneck."""

import pytest
import torch

from smalti.data import EvaluationTransform, Photos, TrainingTransform
from smalti.errors import SmaltiError
from smalti.eval.functional import psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.pixels import pixels_to_uint8, to_pixels
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import (
    BSQ,
    FSQ,
    GQ,
    KL,
    VQ,
    Joint,
    Projected,
    ResidualFSQ,
    ResidualVQ,
    SimVQ,
)
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.linear_start.start import start_as_linear_codec


@pytest.fixture(scope="module")
def crops():
    photos, transform = Photos("train"), TrainingTransform(32, scale=(0.06, 0.6))
    torch.manual_seed(0)
    stacked = torch.stack([transform(photos[i % len(photos)]) for i in range(96)])
    return list(to_pixels(stacked).split(32))


@pytest.fixture(scope="module")
def held_out():
    photos, transform = Photos("validation"), EvaluationTransform(resize=64, crop=64)
    return to_pixels(torch.stack([transform(photos[i]) for i in range(len(photos))]))


def mean_psnr(original, reconstruction):
    return psnr(pixels_to_uint8(original), pixels_to_uint8(reconstruction)).mean().item()


def build(bottleneck, **options):
    torch.manual_seed(0)
    return wetok(
        bottleneck, **{"stride": 4, "channels": 16, "multipliers": [1, 2, 4], "blocks": 1, "groups": None} | options
    )


BOTTLENECKS = {
    "FSQ": (lambda: FSQ([16, 8, 4, 4], 2), 2.5),
    "GQ": (lambda: GQ(2, 8), 3.0),
    "BSQ": (lambda: BSQ(8, 2), 3.0),
    "KL": (lambda: KL(8), 1.0),
    "VQ": (lambda: VQ(8, 256), 4.0),
    "SimVQ": (lambda: SimVQ(8, 256), 7.0),
    "ResidualVQ": (lambda: ResidualVQ(8, 2, 256), 4.0),
    "ResidualFSQ": (lambda: ResidualFSQ([8, 5, 5, 5], 2), 5.0),
    "Projected": (lambda: Projected(FSQ([16, 8, 4, 4], 2), 12), 3.0),
    "Joint": (lambda: Joint(KL(8), Projected(FSQ([16, 8, 4, 4], 2), 8, 16)), 3.0),
}
"""Each bottleneck, and how many dB below the linear codec of its bits (KL: of its channels) it may start.

Vector quantizers have as many bits, but fewer than half of them are used well by k-means on so little data.
"""


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_step_0_is_close_to_the_linear_codec(crops, held_out, name):
    bottleneck, margin = BOTTLENECKS[name]
    tokenizer = build(bottleneck())
    config, random_psnr = get_config(tokenizer), mean_psnr(held_out, tokenizer.eval()(held_out)[0])
    start_as_linear_codec(tokenizer.train(), crops)
    assert tokenizer.training
    assert get_config(tokenizer) == config
    if tokenizer.discrete:
        codec = LinearCodec.fit(crops, (1, 4, 4), bits=tokenizer.quantizer.bits_per_position)
    else:
        codec = LinearCodec.fit(crops, (1, 4, 4), channels=8)
    started = mean_psnr(held_out, tokenizer.eval()(held_out)[0])
    assert started > random_psnr + 5
    assert started > mean_psnr(held_out, codec.reconstruct(held_out)) - margin


@torch.no_grad()
@pytest.mark.parametrize("quantizer", [lambda: GQ(4, 8), lambda: FSQ([8, 8, 4, 4, 4, 4], 2)], ids=["GQ", "FSQ"])
def test_a_code_consists_of_components_that_its_projection_sees(quantizer):
    """A branch of Joint has fewer channels than the encoder: the others are log variances of the KL branch."""
    coefficients = torch.randn(8192, 12, generator=torch.Generator().manual_seed(0))
    variances = 0.7 ** torch.arange(12)
    bottleneck = Projected(quantizer(), dim=6, in_dim=12).eval()
    code = bottleneck.linear_start(coefficients, variances, 0)
    error = (bottleneck(code.target(coefficients)[None]).z[0] - coefficients[:, :6]).square().mean(0)
    assert float(error @ variances[:6]) < 0.2 * float(variances[:6].sum())


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 16, "blocks": 2},
        {"stride": 8, "multipliers": [1, 2, 4, 4]},
        {"generative": True},
        {"multipliers": [2, 2, 2]},
    ],
    ids=["norms", "stride 8", "generative", "no shortcuts"],
)
def test_other_architectures_start_far_above_random_weights(crops, held_out, options):
    tokenizer = build(FSQ([16, 8, 4, 4], 2), **options).eval()
    random_psnr = mean_psnr(held_out, tokenizer(held_out)[0])
    report = start_as_linear_codec(tokenizer, crops)
    assert mean_psnr(held_out, tokenizer(held_out)[0]) > random_psnr + 3
    assert all(0 <= error <= 1 for error in report.errors.values())


@pytest.mark.parametrize("options", [{}, {"multipliers": [1, 1, 1]}, {"generative": True}, {"blocks": 2}])
def test_group_norms_with_room_for_constants_cost_nothing(crops, held_out, options):
    plain, normed = (build(FSQ([16, 8, 4, 4], 2), channels=32, groups=g, **options).eval() for g in (None, 4))
    quality = []
    for tokenizer in (plain, normed):
        start_as_linear_codec(tokenizer, crops)
        quality.append(mean_psnr(held_out, tokenizer(held_out)[0]))
    assert quality[1] > quality[0] - 0.3


def test_the_same_data_gives_the_same_weights(crops):
    first, second = (build(GQ(2, 8)) for _ in range(2))
    torch.manual_seed(1)
    start_as_linear_codec(first, crops)
    torch.manual_seed(2)
    start_as_linear_codec(second, crops)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_network_without_such_a_start_says_so(crops):
    class Own(FSQ):
        def linear_start(self, coefficients, variances, hidden_units):
            return super(FSQ, self).linear_start(coefficients, variances, hidden_units)

    with pytest.raises(SmaltiError, match="does not define how it represents principal components"):
        start_as_linear_codec(build(Own([8, 8])), crops)
