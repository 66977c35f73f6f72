"""Evaluation with other channels than red, green and blue: nothing is rounded, and each group has its values."""

import json
import math
from pathlib import Path

import pytest
import torch

from smalti.channel_groups import RGB
from smalti.errors import SmaltiError
from smalti.eval import functional
from smalti.eval.channel_views import metric_view, panel_titles, pictures
from smalti.eval.contact_sheet import contact_sheet
from smalti.eval.evaluate import evaluate
from smalti.eval.linear_codec import LinearCodec
from smalti.eval.metrics import PSNR, SSIM, EquivarianceError, LatentSpectrum, channel_metrics, find_metric
from smalti.eval.pictures import describe_pictures, write_pictures
from smalti.eval.rivals import build_rivals, fit_linear_codecs
from smalti.eval.rivals.linear import LinearRival
from smalti.pixels import uint8_to_pixels
from smalti.tokenizers import Decoder, Encoder, Tokenizer
from smalti.tokenizers.bottlenecks import Identity
from smalti.tokenizers.linear_start.principal_components import PrincipalComponents
from smalti.types import Batch

GROUPS = {"rgb": 3, "nir": 1}


class Blocks(Encoder):
    """Means of blocks of 4 x 4 pixels."""

    stride, out_dim, channels = (1, 4, 4), 4, GROUPS

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, state=None):
        return (torch.nn.functional.avg_pool3d(x * self.scale, (1, 4, 4)),)


class Brighter(Decoder):
    """Repeats the means, and adds a constant to the last channel."""

    in_dim, channels = 4, GROUPS

    def forward(self, latents, generator=None, state=None):
        pixels = latents[0].repeat_interleave(4, 3).repeat_interleave(4, 4)
        return pixels + torch.tensor([0, 0, 0, 0.01]).view(4, 1, 1, 1)


def images(count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 24, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture
def tokenizer():
    return Tokenizer(Blocks(), Identity(4), Brighter())


def make_batches():
    """Return three images of blocks of one color, and of a fourth channel that is 0."""
    colors = uint8_to_pixels(images())[:, :, :6, :8].repeat_interleave(4, 2).repeat_interleave(4, 3)
    x = torch.cat([colors, torch.zeros(3, 1, 24, 32)], dim=1)
    return [Batch(x[:2], ["a", "b"]), Batch(x[2:], ["c"])]


@pytest.fixture
def batches():
    return make_batches()


def evaluate_bands(batches):
    """Evaluate batches with a linear codec of all images as a rival, and return the numbers."""
    tokenizer = Tokenizer(Blocks(), Identity(4), Brighter())
    mean, std = torch.zeros(64), torch.ones(4)
    codec = LinearCodec(PrincipalComponents((1, 4, 4), mean, torch.eye(64)[:4], std), None)
    rivals = build_rivals(["linear_codec", "bicubic"], linear_codec=LinearRival({1.0: codec}, "nothing"))
    found = evaluate(tokenizer, batches, channel_metrics(GROUPS), rivals=rivals, rival_samples=2)
    return {
        "samples": found.samples,
        "sha256": found.samples_sha256,
        "metrics": {name: metric.value for name, metric in found.metrics.items()},
        "rivals": {name: rival.metrics for name, rival in found.rivals.rivals.items()},
        "examples": [example.name for example in found.examples],
    }


def test_two_processes_return_the_results_of_one(tmp_path, run_ranks):
    for rank in run_ranks(Path(__file__).with_name("channels_worker.py"), str(tmp_path)):
        assert rank.returncode == 0, rank.output
    alone = evaluate_bands(make_batches())
    assert alone["rivals"].keys() == {"linear_codec", "bicubic"}
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == json.loads(json.dumps(alone))


def test_8_bit_photos_have_the_values_of_photos():
    x, y = images(), images().flip(0)
    a, b = uint8_to_pixels(x), uint8_to_pixels(y)
    torch.testing.assert_close(functional.psnr(a, b), functional.psnr(x, y), rtol=0, atol=1e-5)
    torch.testing.assert_close(functional.ssim(a, b), functional.ssim(x, y), rtol=0, atol=1e-4)
    assert (functional.psnr(a, a) == functional.PSNR_CEILING).all()
    with pytest.raises(ValueError, match="both uint8 or both floating point"):
        functional.psnr(a, y)


def test_differences_below_8_bits_count_and_values_are_clamped():
    x = torch.zeros(1, 2, 8, 8)
    assert functional.psnr(x, x + 1e-4).item() == pytest.approx(20 * math.log10(2 / 1e-4), abs=1e-3)
    assert functional.psnr(torch.ones(1, 1, 8, 8), torch.full((1, 1, 8, 8), 3.0)).item() == functional.PSNR_CEILING


def test_a_clip_has_the_mean_of_its_frames():
    clip, other = torch.rand(2, 4, 3, 16, 16), torch.rand(2, 4, 3, 16, 16)
    (metric,) = (metric for metric in channel_metrics(GROUPS) if metric.name == "psnr_nir")
    frames = torch.stack([functional.psnr(clip[:, 3:, t], other[:, 3:, t]) for t in range(3)])
    torch.testing.assert_close(metric.measure(clip, other), frames.mean(0))


def test_each_group_is_measured_and_colors_by_metrics_of_colors(tokenizer, batches):
    metrics = [*channel_metrics(GROUPS), SSIM(), LatentSpectrum(), EquivarianceError()]
    evaluation = evaluate(tokenizer, batches, metrics)
    values = {name: result.value for name, result in evaluation.metrics.items()}
    assert values.keys() >= {"psnr", "psnr_rgb", "psnr_nir", "ssim_rgb", "ssim_nir", "ssim", "latent_spectrum"}
    assert values["psnr_rgb"] == functional.PSNR_CEILING
    assert values["psnr_nir"] == pytest.approx(20 * math.log10(2 / 0.01), abs=1e-3)
    assert values["psnr"] == pytest.approx(values["psnr_nir"] + 10 * math.log10(4), abs=1e-3)
    assert values["ssim"] == pytest.approx(1)
    assert not any(result.comparable for name, result in evaluation.metrics.items() if name != "ssim")
    assert evaluation.channels == GROUPS
    assert evaluation.bits_per_pixel == 4
    assert evaluation.baseline_bits_per_pixel == pytest.approx(32 / 8)  # 8 bits of each of four channels
    assert evaluation.baseline["psnr_nir"].value > 40  # a constant channel is almost free
    for invalid in (batches[0].pixels[:, :3], batches[0].pixels[0]):
        with pytest.raises(SmaltiError, match=r"images \(B, 4, H, W\)"):
            evaluate(tokenizer, [Batch(invalid, ["a", "b"])], metrics)


def test_rivals_code_all_channels_or_say_that_they_do_not(tokenizer, batches):
    linear = fit_linear_codecs([batch.pixels for batch in batches], tokenizer, "itself")
    rivals = build_rivals(["linear_codec", "bicubic", "jpeg"], linear_codec=linear)
    evaluation = evaluate(tokenizer, batches, channel_metrics(GROUPS), rivals=rivals)
    assert "codes red, green and blue, not the channels rgb 3, nir 1" in evaluation.left_out["jpeg"]
    found = evaluation.rivals.rivals
    # Blocks of one color have three principal components, of which the codec may keep four.
    assert found["linear_codec"].metrics["psnr_rgb"] > 60
    assert found["linear_codec"].metrics["psnr_nir"] > 60
    assert found["bicubic"].metrics["psnr_rgb"] == pytest.approx(evaluation.baseline["psnr_rgb"].value)
    assert found["bicubic"].bits_per_pixel == pytest.approx(evaluation.baseline_bits_per_pixel)
    assert len(found["bicubic"].curve) > 1


def test_metrics_of_colors_need_colors(tokenizer, batches):
    tokenizer.encoder.channels = tokenizer.decoder.channels = {"depth": 4}
    with pytest.raises(SmaltiError, match="psnr needs red, green and blue, but the channels are depth 4"):
        evaluate(tokenizer, batches, [PSNR()])
    evaluation = evaluate(tokenizer, batches, [*channel_metrics({"depth": 4}), find_metric("ifd_efflite0")(None)])
    assert "needs red, green and blue" in evaluation.left_out["ifd_efflite0"]
    assert evaluation.metrics["psnr"].value == evaluation.metrics["psnr_depth"].value


def test_every_group_is_a_picture(tokenizer, batches, tmp_path):
    x = batches[0].pixels
    assert panel_titles(x, GROUPS) == ("rgb", "nir")
    assert torch.equal(pictures(x, GROUPS)[:, :, 0], metric_view(x, GROUPS, all_channels=False))
    assert (pictures(x, GROUPS)[:, :, 1] == 128).all()
    assert torch.equal(pictures(x[:, :3], RGB), pictures(x, GROUPS)[:, :, 0])
    clip = x.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    assert panel_titles(clip, GROUPS) == ()
    assert pictures(clip, GROUPS).shape == (2, 3, 2, 24, 32)
    assert pictures(x, {"depth": 4}).shape == (2, 3, 24, 32)

    evaluation = evaluate(tokenizer, batches, channel_metrics(GROUPS))
    example = evaluation.examples[0]
    assert example.panels == ("rgb", "nir")
    assert example.original.shape == (3, 2, 24, 32)
    assert describe_pictures([example])[0]["panels"] == ["rgb", "nir"]
    write_pictures([example], tmp_path)
    from PIL import Image

    assert Image.open(tmp_path / describe_pictures([example])[0]["original"]).size == (64, 24)
    assert contact_sheet([example], {}).size[0] > 2 * 160
