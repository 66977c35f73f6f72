"""The functions that build tokenizers derive all sizes from the stride and the bottleneck."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers import Tokenizer, WeTokGenerativeDecoder, ltx, onevae, uniwetok, wetok
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL
from smalti.tokenizers.configurable import from_config, get_config


@pytest.fixture(autouse=True)
def meta_device():
    with torch.device("meta"):
        yield


def arguments(part):
    return get_config(part)["init_args"]


@pytest.mark.parametrize(
    "build",
    [
        lambda bottleneck: wetok(bottleneck, stride=4, channels=8, groups=None),
        lambda bottleneck: uniwetok(bottleneck, stride=4, channels=8, groups=None, attention_heads=2),
        lambda bottleneck: onevae(bottleneck, stride=(2, 4, 4), channels=8),
        lambda bottleneck: ltx(bottleneck, encoder_channels=4, decoder_channels=4),
    ],
)
@pytest.mark.parametrize("bottleneck", [KL(3), GQ(2, 4), FSQ([5, 5, 5])], ids=lambda b: type(b).__name__)
def test_any_bottleneck_fits_and_the_configuration_is_that_of_the_networks(build, bottleneck):
    tokenizer = build(bottleneck)
    config = get_config(tokenizer)
    assert config["class_path"] == "smalti.Tokenizer"
    rebuilt = from_config(config)
    assert type(rebuilt) is Tokenizer
    assert get_config(rebuilt) == config
    assert (tokenizer.encoder.out_dim, tokenizer.decoder.in_dim) == (bottleneck.in_dim, bottleneck.out_dim)


@pytest.mark.parametrize(
    ("stride", "multipliers"),
    [
        (1, [1]),
        (4, [1, 2, 2]),
        (8, [1, 2, 2, 4]),
        (16, [1, 1, 2, 2, 4]),
        (32, [1, 1, 2, 2, 4, 8]),
        (64, [1, 1, 2, 2, 4, 8, 8]),
    ],
)
def test_wetok_has_the_published_multipliers(stride, multipliers):
    tokenizer = wetok(GQ(4, 8), stride, channels=32, blocks=1)
    assert tokenizer.encoder.stride == (1, stride, stride)
    assert arguments(tokenizer.encoder)["multipliers"] == arguments(tokenizer.decoder)["multipliers"] == multipliers


@pytest.mark.parametrize(("stride", "multipliers"), [(4, [1, 2, 3]), (16, [1, 2, 3, 3, 3])])
def test_multipliers_are_extended_or_cut_to_the_levels(stride, multipliers):
    image = wetok(GQ(4, 8), stride, channels=8, multipliers=[1, 2, 3] + [3] * (stride < 8), groups=None)
    video = onevae(KL(4), (2, stride, stride), channels=8, multipliers=[1, 2, 3] + [3] * (stride < 8))
    for part in (image.encoder, image.decoder, video.encoder, video.decoder):
        assert arguments(part)["multipliers"] == multipliers


def test_uniwetok_has_the_multipliers_of_bitdance():
    tokenizer = uniwetok(GQ(16, 8), blocks=1)
    assert tokenizer.encoder.stride == (1, 32, 32)
    assert (
        arguments(tokenizer.encoder)["multipliers"] == arguments(tokenizer.decoder)["multipliers"] == [1, 1, 2, 2, 4, 8]
    )


def test_wetok_generative():
    assert isinstance(wetok(GQ(4, 8), generative=True).decoder, WeTokGenerativeDecoder)


@pytest.mark.parametrize(
    ("stride", "strides"),
    [
        ((4, 8, 8), [[1, 2], [2, 2], [2, 2]]),
        ((8, 16, 16), [[1, 2], [2, 2], [2, 2], [2, 2]]),
        ((1, 4, 4), [[1, 2], [1, 2]]),
    ],
)
def test_onevae_halves_time_in_the_last_levels(stride, strides):
    tokenizer = onevae(KL(4), stride, channels=8, first_frame=True, norm=False)
    assert tokenizer.encoder.stride == stride
    for part in (tokenizer.encoder, tokenizer.decoder):
        shared = {name: arguments(part)[name] for name in ("strides", "first_frame", "norm", "multipliers")}
        assert shared == {
            "strides": strides,
            "first_frame": True,
            "norm": False,
            "multipliers": [1, 2, 4, 4, 4][: len(strides) + 1],
        }


def test_ltx_denoises_as_released_but_not_with_a_quantizer():
    released = {version: ltx(KL(4), version).decoder.timestep for version in ("0.9.0", "0.9.1", "0.9.5")}
    assert released == {"0.9.0": None, "0.9.1": 0.05, "0.9.5": 0.05}
    assert ltx(FSQ([8, 8])).decoder.timestep is None
    assert ltx(FSQ([8, 8]), denoising=True).decoder.timestep == 0.05
    assert ltx(KL(4), denoising=False).decoder.timestep is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: wetok(KL(4), 12), "stride is 12: give a power of 2"),
        (lambda: wetok(KL(4), 0), "stride is 0: give a power of 2"),
        (lambda: wetok(KL(4), multipliers=[]), "at least one number"),
        (lambda: wetok(KL(4), channels=24), "groups 32"),
        (lambda: onevae(KL(4), (4, 8, 16)), "equal height and width"),
        (lambda: onevae(KL(4), (16, 8, 8)), "at most as many frames"),
        (lambda: onevae(KL(4), (3, 8, 8)), "stride is 3: give a power of 2"),
        (lambda: onevae(KL(4), (1, 1, 1), first_frame=True), "first_frame requires"),
        (lambda: ltx(KL(4), "0.9.9"), "no version '0.9.9'"),
        (lambda: ltx(KL(4), encoder_blocks=[["compress_all", {}]]), r"downsample .* by \(2, 8, 8\)"),
    ],
)
def test_errors_say_what_to_change(build, message):
    with pytest.raises(SmaltiError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
