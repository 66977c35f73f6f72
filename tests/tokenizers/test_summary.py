"""The summary that `print(tokenizer)` shows."""

import pytest
import torch

from smalti.tokenizers.bottlenecks import FSQ, KL, VQ, Joint, Projected


def test_a_discrete_tokenizer_is_summarized(small):
    lines = str(small()).splitlines()
    assert lines[0] == "Tokenizer, discrete, stride 1 x 4 x 4 (frames, height, width)"
    assert lines[1].startswith("  encoder: WeTokEncoder, 0.09M")
    assert lines[2] == "  bottleneck: GQ(groups=2, bits=4)"
    assert lines[3].startswith("  decoder: WeTokDecoder, 0.15M")
    assert lines[4] == ("  code: 2 tokens of 16 values per latent position, 0.5 bits per pixel, compression 48x")
    assert lines[5] == "  parameters: 0.25M, 0.989 MB, float32 on cpu, trainable, evaluation mode"
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("bottleneck", "expected"),
    [
        (KL(4), ["bottleneck: KL(dim=4)", "code: 4 channels"]),
        (VQ(8, 64), ["VQ(dim=8, codebook_size=64)", "1 token of 64 values"]),
        (
            Joint(KL(4), Projected(FSQ([8, 8]), 4, 8)),
            ["Joint(continuous=KL(dim=4), discrete=Projected(quantizer=FSQ(levels=[8, 8]), dim=4, in_dim=8))"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bottlenecks_are_shown_as_they_were_built(small, bottleneck, expected):
    summary = str(small(bottleneck))
    assert all(text in summary for text in expected)


def test_the_state_of_the_weights_is_shown(small):
    tokenizer = small().requires_grad_(requires_grad=False)
    tokenizer.decoder.to(torch.bfloat16).requires_grad_()
    assert "float32, bfloat16 on cpu, partly frozen, evaluation mode" in str(tokenizer)
    assert "float32 on cpu, frozen, training mode" in str(small().requires_grad_(requires_grad=False).train())


def test_wrapped_networks_are_named_and_all_modules_can_be_shown(small):
    tokenizer = small()
    assert "encoder: TiledEncoder(WeTokEncoder)" in str(tokenizer.tiled(32, 8))
    assert "(conv_in): Conv2d" in str(tokenizer.encoder)
    assert "(conv_in): Conv2d" in torch.nn.Module.__repr__(tokenizer)
