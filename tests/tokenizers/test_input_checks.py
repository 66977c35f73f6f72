"""Invalid pixels, latents and tokens are refused with one sentence that names the fix."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels
from smalti.tokenizers.bottlenecks import KL
from smalti.tokenizers.input_checks import prepare_pixels
from smalti.types import TokenGrid

NAN = float("nan")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("photo.jpg", "photo.jpg: load it with smalti.load_image"),
        (Path("photo.jpg"), "photo.jpg: load it with smalti.load_image"),
        (Image.new("RGB", (8, 8)), "a PIL image: convert it with smalti.pixels.image_to_pixels"),
        (np.zeros((8, 8, 3), np.uint8), r"a numpy array: .*permute\(2, 0, 1\)\[None\] / 127.5 - 1"),
        (None, "not a NoneType"),
        ([[0.5]], "not a float"),
        (torch.zeros(3, 8, 8), r"add the batch axis with x\[None\]"),
        (torch.zeros(3, 5, 8, 8), r"add the batch axis with x\[None\]"),
        (torch.zeros(8, 8, 3), r"x.permute\(2, 0, 1\)\[None\]"),
        (torch.zeros(2, 8, 8, 3), r"x.permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 5, 8, 8, 3), r"x.permute\(0, 4, 1, 2, 3\)"),
        (torch.zeros(2, 5, 3, 8, 8), r"x.transpose\(1, 2\)"),
        (torch.zeros(2, 1, 8, 8), r"x.expand\(-1, 3, -1, -1\)"),
        (torch.zeros(2, 4, 8, 8), r"drop the alpha channel with x\[:, :3\]"),
        (torch.zeros(2, 3, 8, 0), "no empty axis"),
        (torch.zeros(8, 8), "not \\(8, 8\\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "not torch.uint8: convert 8-bit images with x / 127.5 - 1"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "not torch.int64"),
        (torch.full((1, 3, 8, 8), 255.0), "range from 255 to 255, but .* x / 127.5 - 1"),
        (torch.full((1, 3, 8, 8), 20.0, dtype=torch.float16), "range from 20 to 20"),
        (torch.full((1, 3, 8, 8), NAN), "NaN"),
        (torch.full((1, 3, 8, 8), -float("inf")), "infinite"),
        (
            torch.zeros(1, 3, 8, 8, device="meta"),
            r"pixels are on meta, but the tokenizer is on cpu: pass x.to\('cpu'\)",
        ),
    ],
    ids=lambda value: None if not isinstance(value, torch.Tensor) else f"{tuple(value.shape)} {value.dtype}",
)
def test_invalid_pixels_are_refused(small, x, message):
    tokenizer = small()
    for call in (tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(SmaltiError, match=message) as caught:
            call(x)
        assert str(caught.value).count(". ") == 0


def test_the_advice_gives_valid_pixels(small):
    channels_last, gray, alpha = torch.zeros(8, 12, 3), torch.zeros(1, 1, 8, 12), torch.zeros(1, 4, 8, 12)
    image = Image.new("RGB", (12, 8))
    array = np.asarray(image).copy()
    for x in (
        channels_last.permute(2, 0, 1)[None],
        gray.expand(-1, 3, -1, -1),
        alpha[:, :3],
        image_to_pixels(image.convert("RGB"))[None],
        torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1,
    ):
        assert small().tokenize(x).size == (8, 12)


def test_values_of_processed_pixels_are_accepted(small, photo):
    """Noise and resampling leave the range of pixels, but not by as much as values in [0, 255]."""
    tokenizer = small()
    tokenizer.encode(photo + torch.randn_like(photo))
    tokenizer.encode(torch.nn.functional.interpolate(photo, (50, 70), mode="bicubic", antialias=True))
    with pytest.raises(SmaltiError, match=r"x / 127\.5 - 1"):
        tokenizer.encode((photo + 1) * 127.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixels_are_converted_to_the_dtype_of_the_weights(small, photo, dtype):
    tokenizer = small()
    x = photo.to(dtype)
    assert torch.equal(tokenizer.encode(x).z, tokenizer.encode(x.float()).z)
    with torch.no_grad():
        assert small().to(dtype)(photo)[0].dtype == dtype


def test_chunks_of_a_stream_are_checked(small):
    tokenizer = small()
    clip = torch.zeros(1, 3, 2, 8, 8)
    for chunks, message in (
        ([clip, clip[:, :, 0]], r"chunks \(B, 3, T, H, W\).*x.unsqueeze\(2\)"),
        ([clip, clip + 255], "127.5"),
        ([clip, clip.expand(2, -1, -1, -1, -1)], "same batch size, height and width"),
        ([clip, clip[..., :7]], "same batch size, height and width"),
    ):
        with pytest.raises(SmaltiError, match=message):
            list(tokenizer.encode_stream(chunks))


def test_in_training_the_values_are_left_to_the_check_of_the_losses(small):
    """An error in one process would leave the other processes waiting."""
    x = torch.full((1, 3, 8, 8), NAN)
    assert small().train().encode(x).z.isnan().any()
    with pytest.raises(SmaltiError, match="NaN"):
        prepare_pixels(x, None, check_values=True)


def test_invalid_tokens_are_refused(small, photo):
    tokenizer = small()
    tokens = tokenizer.tokenize(photo)
    for invalid, message in (
        (tokens.ids, r"a tensor: make one of generated ids with tokenizer.grid\(ids, size="),
        (tokenizer.encode(photo), "decode latents with decode"),
        (replace(tokens, ids=tokens.ids.float()), "integers, not torch.float32"),
        (replace(tokens, ids=tokens.ids > 0), "integers, not torch.bool"),
        (replace(tokens, ids=tokens.ids[:, 1:]), "have 384 positions, but ids has 383"),
        (replace(tokens, ids=tokens.ids[..., :1]), "2 tokens per position"),
        (replace(tokens, ids=tokens.ids[0]), "ids of shape"),
        (replace(tokens, ids=tokens.ids + 16), "0 to 15"),
        (replace(tokens, size=(128, 192)), r"latent grids \(\(1, 32, 48\),\) .* not \(\(1, 16, 24\),\)"),
        (replace(tokens, frames=3), "A clip of 3 frames"),
        (tokens.to("meta"), r"ids are on meta.*tokens.to\('cpu'\)"),
    ):
        with pytest.raises(SmaltiError, match=message):
            tokenizer.detokenize(invalid)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32])
def test_ids_of_any_integer_type_are_decoded(small, photo, dtype):
    tokenizer = small()
    tokens = tokenizer.tokenize(photo)
    stored = TokenGrid(ids=tokens.ids.to(dtype), grids=tokens.grids, size=tokens.size)
    assert torch.equal(tokenizer.detokenize(stored), tokenizer.detokenize(tokens))


def test_invalid_latents_are_refused(small, photo):
    tokenizer = small()
    latents = tokenizer.encode(photo)
    z = latents.z
    for invalid, message in (
        (z, "Latents.from_grids"),
        (tokenizer.tokenize(photo), "decode tokens with detokenize"),
        (small(KL(4)).encode(photo), r"\(B, N, 8\), not \(1, 384, 4\)"),
        (replace(latents, code=replace(latents.code, z=z[:, 1:])), "384 positions, but z has 383"),
        (replace(latents, code=replace(latents.code, z=z.long())), "floating-point latents"),
        (replace(latents, size=(8, 8)), "latent grids"),
        (latents.to("meta"), r"latents are on meta.*latents.to\('cpu'\)"),
    ):
        with pytest.raises(SmaltiError, match=message):
            tokenizer.decode(invalid)
    with pytest.raises(SmaltiError, match="has 383"):
        list(tokenizer.decode_stream([replace(latents, code=replace(latents.code, z=z[:, 1:]))]))
