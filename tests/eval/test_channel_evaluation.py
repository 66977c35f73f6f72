"""PSNR and SSIM of groups of channels equal those of photos for 8 bits, and resolve more than 8 bits."""

import math

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.eval import functional
from smalti.eval.channel_evaluation import check_color_metrics, evaluate_channels, measure_groups, psnr, ssim
from smalti.eval.metrics import PSNR, SSIM, FrechetDistance
from smalti.pixels import uint8_to_pixels
from smalti.tokenizers import Decoder, Encoder, Tokenizer
from smalti.tokenizers.bottlenecks import Identity
from smalti.types import Batch

GROUPS = {"rgb": 3, "nir": 1}


class Same(Encoder):
    stride, out_dim, channels = (1, 1, 1), 4, GROUPS

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, state=None):
        return (x * self.scale,)


class Brighter(Decoder):
    """Adds a constant to the last channel."""

    in_dim, channels = 4, GROUPS

    def forward(self, latents, generator=None, state=None):
        return latents[0] + torch.tensor([0, 0, 0, 0.01]).view(4, 1, 1, 1)


def images(count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 24, 32), dtype=torch.uint8, generator=generator)


def test_8_bit_photos_have_the_values_of_photos():
    x, y = images(), images().flip(0)
    a, b = uint8_to_pixels(x), uint8_to_pixels(y)
    torch.testing.assert_close(psnr(a, b), functional.psnr(x, y), rtol=0, atol=1e-5)
    torch.testing.assert_close(ssim(a, b), functional.ssim(x, y).double(), rtol=0, atol=1e-4)
    assert (psnr(a, a) == functional.PSNR_CEILING).all()


def test_differences_below_8_bits_count_and_values_are_clamped():
    x = torch.zeros(1, 2, 8, 8)
    assert psnr(x, x + 1e-4).item() == pytest.approx(20 * math.log10(2 / 1e-4), abs=1e-3)
    assert psnr(torch.ones(1, 1, 8, 8), torch.full((1, 1, 8, 8), 3.0)).item() == functional.PSNR_CEILING


def test_a_clip_has_the_mean_of_its_frames():
    clip, other = torch.rand(2, 4, 3, 16, 16), torch.rand(2, 4, 3, 16, 16)
    values = measure_groups(psnr, "psnr", clip, other, GROUPS)
    frames = torch.stack([psnr(clip[:, 3:, t], other[:, 3:, t]) for t in range(3)])
    torch.testing.assert_close(values["psnr_nir"], frames.mean(0))


def test_each_group_is_measured_and_colors_by_metrics_of_colors():
    tokenizer = Tokenizer(Same(), Identity(4), Brighter())
    x = torch.cat([uint8_to_pixels(images()), torch.zeros(3, 1, 24, 32)], dim=1)
    batches = [Batch(x[:2], ["a", "b"]), Batch(x[2:], ["c"])]
    evaluation = evaluate_channels(tokenizer, batches, check_color_metrics([PSNR(), SSIM()], GROUPS)[1:])
    assert evaluation.samples.keys() == {"a", "b", "c"}
    assert evaluation.means["psnr_rgb"] == functional.PSNR_CEILING
    assert evaluation.means["psnr_nir"] == pytest.approx(20 * math.log10(2 / 0.01), abs=1e-3)
    assert evaluation.means["psnr"] == pytest.approx(evaluation.means["psnr_nir"] + 10 * math.log10(4), abs=1e-3)
    assert evaluation.means["ssim"] == pytest.approx(1)
    with pytest.raises(SmaltiError, match="no samples"):
        evaluate_channels(tokenizer, [])
    with pytest.raises(SmaltiError, match=r"pixels \(B, 4, H, W\)"):
        evaluate_channels(tokenizer, [Batch(x[:, :3], ["a", "b", "c"])])


def test_metrics_of_colors_need_colors():
    with pytest.raises(SmaltiError, match="psnr measures red, green and blue, but the channels are depth 1"):
        check_color_metrics([PSNR()], {"depth": 1})
    metric = object.__new__(FrechetDistance)
    metric.name = "rfid"
    with pytest.raises(SmaltiError, match="rfid has no value per sample"):
        check_color_metrics([metric], GROUPS)
