"""Published checkpoints are imported completely, under the keys of their publisher, or not at all."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.family import lit_ema_key


def moving_averages(state_dict, part, shift=1.0):
    return {lit_ema_key(key): tensor + shift for key, tensor in state_dict.items() if key.startswith(part)}


def test_moving_averages_are_preferred_for_whole_parts(stage1):
    ema_state = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    state_dict = stage1.state_dict | moving_averages(stage1.state_dict, "decoder") | ema_state
    tokenizer = from_published("wetok", stage1.config, state_dict)
    # The decoder has averages and the encoder has none, as after a second training stage.
    assert torch.equal(tokenizer.decoder.conv_out.bias, stage1.state_dict["decoder.conv_out.bias"] + 1)
    assert torch.equal(tokenizer.encoder.conv_out.bias, stage1.state_dict["encoder.conv_out.bias"])
    del state_dict["model_ema.decoderconv_outbias"]
    with pytest.raises(SmaltiError, match=r"model_ema\.decoderconv_outbias"):
        from_published("wetok", stage1.config, state_dict)


def test_weights_of_training_are_ignored(stage1):
    names = ("loss.discriminator.main.0.weight", "loss.perceptual_loss.lin0.model.1.weight")
    from_published("wetok", stage1.config, stage1.state_dict | {name: torch.zeros(1) for name in names})


def test_errors_name_the_key(stage1):
    state_dict = dict(stage1.state_dict)
    weight = state_dict.pop("decoder.adaptive.1.gamma.weight")
    with pytest.raises(SmaltiError, match=r"decoder\.adaptive\.1\.gamma\.weight.*missing"):
        from_published("wetok", stage1.config, state_dict)
    with pytest.raises(SmaltiError, match=r"decoder\.adaptive\.1\.gamma\.weight.*shape"):
        from_published("wetok", stage1.config, state_dict | {"decoder.adaptive.1.gamma.weight": weight[:, :4]})
    with pytest.raises(SmaltiError, match=r"quantize\.codebook.*unexpected"):
        from_published("wetok", stage1.config, stage1.state_dict | {"quantize.codebook": weight})


def test_unknown_families_and_empty_checkpoints_are_refused(stage1):
    with pytest.raises(SmaltiError, match="wetok"):
        from_published("titok", stage1.config, stage1.state_dict)
    with pytest.raises(SmaltiError, match="no weights"):
        from_published("wetok", stage1.config, {})
