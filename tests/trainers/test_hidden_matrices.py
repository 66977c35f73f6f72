"""Which parameters of the families of networks are hidden matrices."""

import pytest
import torch

from smalti.tokenizers import LTXDecoder, LTXEncoder, OneVAEDecoder, OneVAEEncoder, Tokenizer, uniwetok
from smalti.tokenizers.base import Encoder
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL, Projected
from smalti.trainers.hidden_matrices import hidden_matrices


class PlainEncoder(Encoder):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x, state=None):
        return (self.layers(x),)


def find_names(tokenizer):
    matrices = hidden_matrices(tokenizer)
    return {name for name, p in tokenizer.named_parameters() if p in matrices}


def onevae():
    shape = {"channels": 4, "multipliers": [1, 1], "strides": [[2, 2]], "blocks": 1, "first_frame": True}
    bottleneck = Projected(FSQ([5, 5, 5]), 8, in_dim=16)
    return Tokenizer(OneVAEEncoder(16, **shape), bottleneck, OneVAEDecoder(8, **shape))


def ltx():
    blocks = [["res_x", {"num_layers": 1}], ["compress_all", {}]]
    decoder = LTXDecoder(4, channels=8, blocks=blocks, timestep=0.05)
    return Tokenizer(LTXEncoder(5, channels=8, blocks=blocks), KL(4, shared_log_variance=True), decoder)


def test_wetok(small):
    names = find_names(small())
    assert "encoder.levels.0.blocks.0.conv1.weight" in names
    assert "decoder.levels.1.upsample.conv.weight" in names
    assert not any(part in name for name in names for part in ("conv_in", "conv_out", "norm", "bias"))


def test_uniwetok():
    tokenizer = uniwetok(GQ(2, 4), stride=2, channels=8, groups=None, attention_blocks=1, attention_heads=1)
    names = find_names(tokenizer)
    assert "encoder.attention.blocks.0.attention.qkv.weight" in names
    assert "decoder.attention.blocks.0.feed_forward.out.weight" in names
    assert not any(part in name for name in names for part in ("conv_in", "conv_out", "norm", "bias", "registers"))


@pytest.mark.parametrize("build", [onevae, ltx])
def test_outer_layers_bottlenecks_and_everything_but_weights_of_layers_are_left_out(build):
    tokenizer = build()
    names = find_names(tokenizer)
    assert len(names) >= 6
    assert {name.partition(".")[0] for name in names} == {"encoder", "decoder"}
    left_out = ("conv_in", "conv_out", "head", "first_to_latent", "table", "time.linear", "gamma", "bias")
    assert not any(part in name for name in names for part in left_out)
    parameters = dict(tokenizer.named_parameters())
    assert all(parameters[name].ndim >= 2 for name in names)


def test_linear_layers_of_other_networks_are_matrices_except_the_first_and_the_last(small):
    tokenizer = small()
    layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4)))
    tokenizer.encoder = PlainEncoder(layers)
    assert {layers[1].weight, layers[2].weight} < hidden_matrices(tokenizer)
    assert not {layers[0].weight, layers[3].weight} & hidden_matrices(tokenizer)


def test_convolutions_with_groups_are_no_matrices(small):
    tokenizer = small()
    count = len(hidden_matrices(tokenizer))
    block = tokenizer.encoder.levels[0].blocks[0]
    block.conv1 = torch.nn.Conv2d(8, 8, 3, groups=8)
    assert len(hidden_matrices(tokenizer)) == count - 1
