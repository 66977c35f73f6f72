"""Published checkpoints come in whole, under the names of their publisher, or not at all."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.wetok import averaged_key, key


@pytest.mark.parametrize(
    "name",
    [
        "wetok_ImageNet_downsample8_imagenet",
        "wetok_ImageNet_downsample16_imagenet",
        "wetok_GeneralDomain_compratio24_imagenet",
        "wetok_GeneralDomain_compratio48_imagenet",
        "wetok_GeneralDomain_compratio192_imagenet",
        "wetok_GeneralDomain_compratio768_imagenet",
    ],
)
def test_full_size_manifests(manifests, name):
    manifest = manifests[name]
    config = manifest["config"]
    state = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("wetok", config, state)
    count = {part: sum(p.numel() for p in getattr(tokenizer, part).parameters()) for part in ("encoder", "decoder")}
    assert count == {"encoder": config["encoder_parameters"], "decoder": config["decoder_parameters"]}
    assert sum(count.values()) == manifest["parameters"]
    assert {key(name) for name in tokenizer.state_dict()} == set(manifest["state_dict"])
    if "compratio" in name:
        assert tokenizer.compression_ratio == int(name.split("compratio")[1].split("_")[0])


def averaged(state, part, shift=1.0):
    return {averaged_key(key): tensor + shift for key, tensor in state.items() if key.startswith(part)}


def test_averaged_weights_are_preferred_whole(stage1):
    bookkeeping = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    state = stage1.state_dict | averaged(stage1.state_dict, "decoder") | bookkeeping
    tokenizer = from_published("wetok", stage1.config, state)
    # The decoder has averages and the encoder none, as after a second stage.
    assert torch.equal(tokenizer.decoder.conv_out.bias, stage1.state_dict["decoder.conv_out.bias"] + 1)
    assert torch.equal(tokenizer.encoder.conv_out.bias, stage1.state_dict["encoder.conv_out.bias"])
    del state["model_ema.decoderconv_outbias"]
    with pytest.raises(SmaltiError, match=r"model_ema\.decoderconv_outbias"):
        from_published("wetok", stage1.config, state)


def test_training_leftovers_are_left_behind(stage1):
    names = ("loss.discriminator.main.0.weight", "loss.perceptual_loss.lin0.model.1.weight")
    leftovers = {name: torch.zeros(1) for name in names}
    from_published("wetok", stage1.config, stage1.state_dict | leftovers)


def test_faults_name_the_key(stage1):
    state = dict(stage1.state_dict)
    weight = state.pop("decoder.adaptive.1.gamma.weight")
    with pytest.raises(SmaltiError, match=r"decoder\.adaptive\.1\.gamma\.weight.*missing"):
        from_published("wetok", stage1.config, state)
    with pytest.raises(SmaltiError, match=r"decoder\.adaptive\.1\.gamma\.weight.*shape"):
        from_published("wetok", stage1.config, state | {"decoder.adaptive.1.gamma.weight": weight[:, :4]})
    with pytest.raises(SmaltiError, match=r"quantize\.codebook.*unexpected"):
        from_published("wetok", stage1.config, stage1.state_dict | {"quantize.codebook": weight})


def test_configurations_that_contradict_themselves(stage1):
    with pytest.raises(SmaltiError, match="n_embed"):
        from_published("wetok", stage1.config | {"n_embed": 15}, stage1.state_dict)
    with pytest.raises(SmaltiError, match="ddconfig"):
        from_published("wetok", {"n_embed": 16}, stage1.state_dict)
    with pytest.raises(SmaltiError, match="wetok"):
        from_published("titok", stage1.config, stage1.state_dict)
    with pytest.raises(SmaltiError, match="no weights"):
        from_published("wetok", stage1.config, {})
