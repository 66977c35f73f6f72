"""Pictures and plots of reducers."""

import torch

from smalti.eval.latent_saliency import SALIENCY, latent_saliency
from smalti.eval.reducers import overlay
from smalti.eval.scaling_law_plot import scaling_law_plot
from smalti.reducers.scaling_law import AVERAGE
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import FSQ


def test_dropped_positions_are_dark_and_merged_ones_have_a_border():
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    dropped = overlay(image, torch.tensor([[0, -1], [1, 2]]))
    assert dropped[0, 0, 0] == 100
    assert dropped[0, 0, 7] == 20
    merged = overlay(image, torch.tensor([[0, 0], [1, 1]]))
    assert merged[0].eq(255).sum() == 8
    assert merged[0, 4].eq(255).all()


def test_every_saliency_of_a_tokenizer_has_one_value_per_position():
    tokenizer = wetok(FSQ([8, 8], 2), stride=8, channels=4, blocks=1, groups=None).eval()
    pixels = torch.rand(2, 3, 30, 40) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(pixels)
        for name in SALIENCY:
            values = latent_saliency(name, tokenizer, latents, pixels)
            assert values.shape == (2, 20)
            assert bool(values.isfinite().all())


def test_the_plot_of_a_scaling_law_has_a_curve_per_size_and_the_measurements():
    sizes, tokens = [0.5, 7], [1.0, 16, 576]
    errors = AVERAGE.error(torch.tensor(sizes)[:, None], torch.tensor(tokens))
    svg = scaling_law_plot(AVERAGE, sizes, tokens, errors)
    assert svg.count("<polyline") == 2
    assert "visual tokens" in svg
    assert f"0.5B: 16 visual tokens, error {float(errors[0, 1]):.4g}" in svg
