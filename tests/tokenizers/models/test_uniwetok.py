"""UniWeTok's networks: agreement with the published code, positions, registers, bounded latents, export."""

import math

import pytest
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.tokenizers import (
    UniWeTokDecoder,
    UniWeTokEncoder,
    uniwetok,
)
from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ, KL
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.linear_start.start import start_as_linear_codec
from smalti.tokenizers.models.uniwetok.attention import AttentionBlock, GridAttention
from smalti.tokenizers.models.uniwetok.encoder import siglu
from smalti.tokenizers.models.uniwetok.positions import (
    decoder_spacing,
    encoder_spacing,
    rotate_pairs,
    rotation_angles,
)

SHAPE = {"channels": 8, "multipliers": [1, 1, 2], "blocks": 1, "groups": 4, "attention_heads": 2}


def build(bottleneck=None, **changes):
    torch.manual_seed(0)
    return uniwetok(bottleneck or GQ(2, 4), stride=4, **SHAPE | changes).eval()


def relative(ours, theirs):
    """Return the maximum difference, relative to the second's magnitude."""
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


# The published code


def test_agrees_with_the_published_code(vectors, monkeypatch):
    """Both compute in float32: rounding errors of networks of this depth can add up to 2e-5."""
    published = vectors("uniwetok_hybrid")
    tokenizer = from_published("uniwetok", published.config, published.state_dict)
    latents = tokenizer.encode(published["input"])
    assert torch.equal(latents.code.ids.unflatten(1, (8, 12)), published["indices"])
    assert torch.equal(latents.to_grids()[0][:, :, 0] > 0, published["bits"].bool())
    (grid,) = tokenizer.encoder(published["input"].unsqueeze(2))
    assert relative(grid[:, :, 0], published["latent"]) < 2e-5
    tokenizer.encoder.bounded = False
    (grid,) = tokenizer.encoder(published["input"].unsqueeze(2))
    assert relative(grid[:, :, 0], published["latent_logit"]) < 2e-5
    # The file contains the noise that the published code drew.
    monkeypatch.setattr(torch, "randn", lambda *_, **__: published["noise"])
    assert relative(tokenizer.decode(latents), published["reconstruction"]) < 2e-5


# Positions


def test_both_spacings_agree_for_eight_rows_and_stay_on_the_training_grid():
    eight = torch.arange(8.0)
    torch.testing.assert_close(encoder_spacing(eight), eight + 0.5)
    torch.testing.assert_close(decoder_spacing(eight), eight + 0.5)
    for count in (1, 2, 3, 64):
        index = torch.arange(float(count))
        for coordinates in (encoder_spacing(index), decoder_spacing(index)):
            assert 0 < coordinates[0] <= coordinates[-1] <= 7.5
    assert not torch.allclose(encoder_spacing(torch.arange(4.0)), decoder_spacing(torch.arange(4.0)))


def test_rotations_follow_the_column_then_the_row_and_leave_registers_alone():
    angles = rotation_angles(torch.empty(1, 16, 8, 8), 4, head_dim=8, spacing=encoder_spacing)
    assert angles.shape == (4 + 64, 4)
    assert angles[:4].count_nonzero() == 0
    row, column = 2, 5
    slow = 1e4**-0.5
    expected = torch.tensor([column + 1.5, (column + 1.5) * slow, row + 1.5, (row + 1.5) * slow])
    torch.testing.assert_close(angles[4 + 8 * row + column], expected)


def test_products_of_rotated_vectors_depend_on_the_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    angles = rotation_angles(q[0, 0, 0].expand(1, 1, 8, 8), 0, head_dim=8, spacing=encoder_spacing).view(8, 8, -1)

    def product(a, b):
        return (rotate_pairs(q, angles[a][None]) * rotate_pairs(k, angles[b][None])).sum()

    torch.testing.assert_close(product((0, 1), (2, 4)), product((5, 3), (7, 6)))
    assert (product((0, 1), (2, 4)) - product((0, 1), (3, 4))).abs() > 1e-3


def test_half_precision_does_not_move_positions():
    x = torch.empty(1, 8, 64, 64)
    angles = rotation_angles(x, 4, 8, decoder_spacing)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(rotation_angles(x.to(dtype), 4, 8, decoder_spacing), angles)
    q = torch.randn(1, 1, 4 + 64 * 64, 8).bfloat16()
    assert rotate_pairs(q, angles).dtype == torch.bfloat16


def test_attention_carries_information_across_the_image():
    """Without norms, the receptive field of the convolutions is smaller than the image."""
    x = torch.rand(1, 3, 1, 32, 64) * 2 - 1
    changed = x.clone()
    changed[..., :4, :4] += 0.5
    for blocks, reaches in ((0, False), (1, True)):
        encoder = build(groups=None, multipliers=[1, 1, 1], attention_blocks=blocks).encoder
        difference = (encoder(x)[0] - encoder(changed)[0])[..., -1, -1].abs().max()
        assert bool(difference > 0) is reaches


@pytest.mark.parametrize("size", [(3, 2), (4, 12), (12, 4)])
def test_single_rows_and_columns_have_finite_output_and_gradients(size):
    tokenizer = build().train()
    pixels, latents = tokenizer(torch.rand(2, 3, *size) * 2 - 1)
    (pixels.square().mean() + sum(latents.code.losses.values())).backward()
    assert pixels.isfinite().all()
    assert all(p.grad.isfinite().all() for p in tokenizer.parameters())


# Bounded latents


def test_siglu_keeps_the_sign_of_every_number():
    x = torch.tensor([-1e-30, 1e-30, -1e-9, 1e-9, 0.0])
    assert torch.equal(siglu(x) > 0, x > 0)
    x = torch.linspace(-20, 20, 41, dtype=torch.float64)
    torch.testing.assert_close(siglu(x), 2 * torch.sigmoid(x) - 1)


def test_latents_of_sign_quantizers_are_bounded(photo):
    for bottleneck in (GQ(2, 4), BSQ(4, 2)):
        assert build(bottleneck).encoder(100 * photo.unsqueeze(2))[0].abs().max() <= 1
    assert not any(build(bottleneck).encoder.bounded for bottleneck in (FSQ([5, 5]), KL(4)))


@pytest.mark.parametrize("bottleneck", [GQ(16, 8), GQ(32, 8), BSQ(128, token_bits=8), BSQ(256, token_bits=16)])
def test_128_and_256_bits_round_trip(bottleneck, photo):
    tokenizer = build(bottleneck)
    bits = bottleneck.in_dim
    assert tokenizer.quantizer.bits_per_position == bits
    with torch.no_grad():
        latents, tokens = tokenizer.encode(photo), tokenizer.tokenize(photo)
        assert tokens.ids.shape == (1, 16 * 24, bits // math.log2(bottleneck.codebook_size))
        assert torch.equal(tokenizer.dequantize(tokens).z, latents.z)


# Training


def test_activation_checkpointing_covers_attention_and_does_not_change_gradients(photo):
    grads = []
    for checkpointing in (False, True):
        tokenizer = build().train().double()
        if checkpointing:
            # 3 residual blocks in the encoder and 4 in the decoder, 2 attention blocks in each.
            assert enable_activation_checkpointing(tokenizer) == 7 + 4
        torch.manual_seed(0)
        tokenizer(photo[..., :16, :16].double())[0].square().mean().backward()
        grads.append([p.grad for p in tokenizer.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(*grads, strict=True))


def test_registers_without_blocks_are_kept_and_not_trained(photo):
    tokenizer = build(attention_blocks=0).train()
    assert {"encoder.attention.registers", "decoder.attention.registers"} <= tokenizer.state_dict().keys()
    tokenizer(photo[..., :8, :8])[0].mean().backward()
    assert [n for n, p in tokenizer.named_parameters() if p.requires_grad and p.grad is None] == []


def test_blocks_can_start_as_the_identity():
    attention = GridAttention(16, blocks=2, heads=2, spacing=decoder_spacing)
    x = torch.randn(2, 16, 3, 5)
    assert not torch.equal(attention(x), x)
    attention.set_to_identity()
    assert torch.equal(attention(x), x)


@pytest.mark.parametrize("groups", [None, 4], ids=["no norms", "norms"])
def test_it_starts_as_a_linear_codec(photo, groups):
    tokenizer = build(GQ(2, 8), channels=16, multipliers=[1, 2, 4], groups=groups)
    random_error = (tokenizer(photo, torch.Generator().manual_seed(1))[0] - photo).square().mean()
    start_as_linear_codec(tokenizer, [photo])
    error = (tokenizer(photo, torch.Generator().manual_seed(1))[0] - photo).square().mean()
    assert error < 0.5 * random_error
    assert error < 0.1 * photo.var()
    h = torch.randn(1, 64, 4, 4)
    assert torch.equal(tokenizer.encoder.attention(h), h)


def test_a_wide_encoder_computes_binary_numbers(photo):
    tokenizer = build(GQ(2, 8), channels=8, multipliers=[1, 2, 16], groups=None)
    pyramid = Pyramid([photo.unsqueeze(2)])
    coefficients = pyramid.coefficients((1, 4, 4), 16)[0].movedim(1, -1)
    variances = pyramid.components((1, 4, 4), 16).variances[:16]
    code = tokenizer.bottleneck.linear_start(coefficients.flatten(0, -2), variances, tokenizer.encoder.hidden_units)
    assert code.output is not None
    tokenizer.encoder.linear_start(pyramid, code)
    (latent,) = tokenizer.encoder(photo.unsqueeze(2))
    target = code.target(coefficients[..., : code.count]).movedim(-1, 1)
    agreement = ((latent > 0) == (target > 0)).float().mean()
    assert agreement > 0.99  # not 1: convolutions compute the coefficients with other rounding errors


# Files and streams


def test_an_export_computes_the_same(tmp_path, photo):
    tokenizer = build(GQ(16, 8))
    save(tokenizer, tmp_path / "export")
    loaded = smalti.load(tmp_path / "export")
    assert isinstance(loaded.encoder, UniWeTokEncoder)
    assert isinstance(loaded.decoder, UniWeTokDecoder)
    tokens = tokenizer.tokenize(photo)
    assert torch.equal(loaded.tokenize(photo).ids, tokens.ids)
    with torch.no_grad():
        pixels = [t.detokenize(tokens, torch.Generator().manual_seed(1)) for t in (tokenizer, loaded)]
    assert torch.equal(*pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_seed_a_clip_in_chunks_equals_the_whole_clip(tolerance, difference, dtype):
    tokenizer = build().to(dtype)
    x = torch.rand(1, 3, 5, 8, 12, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x)
        whole, chunks = (tokenizer.decode(latents, torch.Generator().manual_seed(3), chunk) for chunk in (9, 1))
    assert difference(chunks, whole) <= tolerance(dtype, tokenizer.decoder)


@pytest.mark.parametrize(
    "change", [{"attention_heads": 3}, {"attention_heads": 8}, {"attention_heads": 0}, {"attention_blocks": -1}]
)
def test_invalid_attention_is_rejected(change):
    with pytest.raises(SmaltiError, match="attention_heads"):
        build(**change)


def test_the_width_of_feed_forward_networks_is_a_multiple_of_256():
    widths = {c: AttentionBlock(c, 1).feed_forward.out.in_features for c in (64, 96, 100, 1024)}
    assert widths == {64: 256, 96: 256, 100: 512, 1024: 2816}
