"""Noise that is drawn with a seed is the same for every chunk size and dtype."""

import torch

from smalti.tokenizers.layers.noise import randn_per_frame


def test_chunks_get_the_noise_of_the_whole_clip():
    x = torch.empty(2, 3, 5, 4, 6)
    whole = randn_per_frame(x, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    chunks = [randn_per_frame(chunk, generator) for chunk in x.split([1, 3, 1], dim=2)]
    assert torch.equal(torch.cat(chunks, dim=2), whole)


def test_noise_does_not_depend_on_the_dtype():
    x = torch.empty(1, 2, 3, 4, 4)
    whole = randn_per_frame(x, torch.Generator().manual_seed(0))
    half = randn_per_frame(x.bfloat16(), torch.Generator().manual_seed(0))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, whole.bfloat16())
