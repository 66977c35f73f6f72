"""Metrics of latents: known values, merging of processes, and reports."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.eval.latent_neighbors import NeighborSearch
from smalti.eval.metrics import (
    PSNR,
    EquivarianceError,
    InterpolatedFrechetDistance,
    LatentChannels,
    LatentSpectrum,
    PosteriorCollapse,
)
from smalti.eval.metrics.interpolated_frechet import nearest_neighbors, slerp
from smalti.eval.metrics.latent_spectrum import BANDS, cosine_basis
from smalti.eval.protocols import get_protocol
from smalti.eval.report import Provenance, results_table, to_dict
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers import Tokenizer, onevae, wetok
from smalti.tokenizers.base import Decoder, Encoder
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.types import Batch, Code, Latents


class Averages(Encoder):
    """Average colors of patches of 4 x 4 pixels as means, with the log-variance 0 or that of `noise`."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.stride, self.out_dim, self.noise = (1, 4, 4), 6, noise

    def forward(self, x, state=None):
        mean = F.avg_pool3d(x, self.stride)
        return (torch.cat([mean, torch.full_like(mean, self.noise)], 1),)


class Repeated(Decoder):
    def __init__(self):
        super().__init__()
        self.in_dim = 3

    @property
    def last_layer(self):
        return nn.Identity()

    def forward(self, latents, generator=None, state=None):
        return latents[0].repeat_interleave(4, 3).repeat_interleave(4, 4)


class Colors(FrechetNetwork):
    """Mean colors as features."""

    metric, comparable, definition, dim, provenance = "colors", False, "mean colors", 3, {}

    def features(self, samples):
        return samples.float().mean((2, 3))


@pytest.fixture
def averages():
    return Tokenizer(Averages(), KL(3), Repeated()).eval()


def latents_of(z):
    return Latents.from_grids((z,), tuple(4 * n for n in z.shape[3:]))


def measure(metric, *batches, tokenizer=None):
    for z in batches:
        metric.update_latents(tokenizer, Batch(torch.zeros(len(z), 3, 16, 16), ["a"] * len(z)), latents_of(z))
    return metric.compute("reconstruction")


def test_the_cosine_transform_is_orthonormal():
    torch.testing.assert_close(cosine_basis(6) @ cosine_basis(6).T, torch.eye(6).double())


def test_spectra_of_noise_and_of_smooth_latents():
    torch.manual_seed(0)
    noise = torch.randn(32, 3, 1, 16, 16)
    metric = LatentSpectrum()
    assert measure(metric, noise + 5, noise * 2) == pytest.approx(0.75, abs=0.01)
    assert sum(metric.details["bands"]) == pytest.approx(1)
    assert len(metric.details["bands"]) == BANDS
    smooth = torch.cos(math.pi * (torch.arange(16) + 0.5) / 16).expand(1, 2, 1, 16, 16)
    assert measure(LatentSpectrum(), smooth) == pytest.approx(0, abs=1e-9)
    assert measure(LatentSpectrum(), torch.ones(1, 2, 1, 4, 4)) == 0


def test_averages_of_pixels_are_equivariant(averages, photo):
    metric, pixels = EquivarianceError(), photo[..., :32, :32]
    metric.update_latents(averages, Batch(pixels, ["a"]), averages.encode(pixels))
    assert metric.details["rotate_90"] == pytest.approx(0, abs=1e-9)
    assert metric.details["rotate_180"] == pytest.approx(0, abs=1e-9)
    assert metric.compute("reconstruction") < 0.05  # scaling without antialiasing is no average


def test_effective_channels_and_their_moments():
    torch.manual_seed(0)
    z = torch.randn(64, 4, 1, 8, 8, dtype=torch.float64)
    assert measure(LatentChannels(), z) == pytest.approx(4, abs=0.01)
    assert measure(LatentChannels(), z[:, :1].expand_as(z)) == pytest.approx(1, abs=1e-6)
    metric = LatentChannels()
    measure(metric, z * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1) + 10)
    assert metric.details["std"] == pytest.approx([1, 2, 3, 4], rel=0.03)
    assert metric.details["mean"] == pytest.approx([10] * 4, abs=0.3)
    assert metric.details["excess_kurtosis"] == pytest.approx([0] * 4, abs=0.2)


def test_collapsed_channels_are_counted(averages):
    mean = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 4, 4)
    latents = latents_of(mean)
    latents = replace(latents, code=Code(latents.z, log_variance=torch.zeros_like(latents.z)))
    metric = PosteriorCollapse()
    metric.update_latents(averages, Batch(torch.zeros(1, 3, 16, 16), ["a"]), latents)
    assert metric.compute("reconstruction") == 0.5
    assert metric.details["nats"] == pytest.approx([0, 2])
    assert metric.details["bits_per_position"] == pytest.approx(2 / math.log(2))


def test_neighbors_and_interpolation():
    z = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0]]).unsqueeze(1)
    assert nearest_neighbors(z, [0, 2]).tolist() == [1, 1]
    torch.testing.assert_close(slerp(z[:1], z[2:]), torch.full((1, 1, 2), 0.5**0.5))
    torch.testing.assert_close(slerp(z[:1], z[:1]), z[:1])
    torch.testing.assert_close(slerp(z[:1], -z[:1]), torch.zeros(1, 1, 2))


def test_ifid_is_the_distance_of_decoded_interpolations(averages):
    torch.manual_seed(0)
    pixels = torch.rand(6, 3, 1, 1).mul(2).sub(1).expand(6, 3, 16, 16)
    names = [f"{i}" for i in range(6)]
    result = evaluate(averages, [Batch(pixels[:4], names[:4]), Batch(pixels[4:], names[4:])], [ifid()])
    z = averages.encode(pixels).z
    originals, between = FeatureStatistics(3), FeatureStatistics(3)
    originals.add(Colors()(pixels_to_uint8(pixels)))
    mixed = slerp(z, z[nearest_neighbors(z, list(range(6)))])[:, 0, :, None, None].expand(6, 3, 16, 16)
    between.add(Colors()(pixels_to_uint8(mixed)))
    assert result.metrics["interpolated_colors"].value == pytest.approx(frechet_distance(originals, between), rel=1e-4)


def ifid():
    return InterpolatedFrechetDistance(Colors())


def test_parts_merge_to_the_whole(averages, photo):
    pixels = photo[..., :32, :32], photo[..., 32:64, 32:64]
    for build in (LatentSpectrum, EquivarianceError, LatentChannels, PosteriorCollapse):
        whole, *parts = (build() for _ in range(3))
        for part, x in zip(parts, pixels, strict=True):
            for metric in (whole, part):
                metric.update_latents(averages, Batch(x, ["a"]), averages.encode(x))
        parts[0].merge(parts[1])
        assert parts[0].compute("") == pytest.approx(whole.compute(""))
        empty = build()
        empty.merge(parts[0])
        assert empty.compute("") == pytest.approx(whole.compute(""))


def test_a_report_says_what_each_value_predicts(photo):
    tokenizer = wetok(FSQ([8, 8]), stride=8, channels=8, blocks=1, groups=None)
    pixels = torch.cat([photo[..., :32, :32], photo[..., 32:64, 32:64]])
    metrics = [PSNR(), ifid(), LatentSpectrum(), EquivarianceError(), LatentChannels(), PosteriorCollapse()]
    evaluation = evaluate(tokenizer, [Batch(pixels, ["a", "b"])], metrics)
    provenance = Provenance(protocol=get_protocol("square32"))
    report = to_dict(evaluation, provenance)
    assert report["left_out"]["posterior_collapse"] == "the tokenizer has no KL bottleneck"
    assert report["baseline"]["metrics"].keys() == {"psnr"}
    names = {"interpolated_colors", "latent_spectrum", "equivariance_error", "effective_channels"}
    assert report["metrics"].keys() == {"psnr"} | names
    assert all("Predicts" in report["definitions"][name] for name in names)
    assert len(report["metrics"]["effective_channels"]["details"]["std"]) == 2
    assert results_table(evaluation, provenance).row_count > 5


def test_clips(photo):
    torch.manual_seed(0)
    tokenizer = onevae(KL(4), stride=(4, 8, 8), channels=4, blocks=1)
    clip = photo[..., :32, :32].unsqueeze(2).repeat(2, 1, 5, 1, 1)
    evaluation = evaluate(
        tokenizer, [Batch(clip, ["a", "b"])], [LatentSpectrum(), EquivarianceError(), PosteriorCollapse()]
    )
    assert evaluation.metrics.keys() == {"latent_spectrum", "equivariance_error", "posterior_collapse"}


def test_ifid_needs_samples_of_one_size(averages, photo):
    batches = [Batch(photo[..., :32, :32], ["a"]), Batch(photo[..., :32, :16], ["b"])]
    with pytest.raises(SmaltiError, match="they differ in size"):
        evaluate(averages, batches, [ifid()])


def test_the_search_in_reference_data_is_exact_in_any_batches():
    torch.manual_seed(0)
    queries, data = torch.randn(5, 3, 2), torch.randn(40, 3, 2)
    search = NeighborSearch(queries, 4)
    for part in data.split([1, 2, 30, 7]):
        search.add(part)
    similarity = F.cosine_similarity(queries.flatten(1)[:, None], data.flatten(1)[None], dim=-1)
    for row, best in enumerate(similarity.topk(4).indices):
        torch.testing.assert_close(search._neighbors[row], data[best])
    drawn = search.draw([f"{i}" for i in range(5)])
    assert torch.equal(drawn, search.draw([f"{i}" for i in range(5)]))
    assert all(any(torch.equal(drawn[row], x) for x in search._neighbors[row]) for row in range(5))
    few = NeighborSearch(queries, 4)
    few.add(data[:1])
    assert torch.equal(few.draw(["a", "b", "c", "d", "e"]), data[:1].expand(5, 3, 2))


def test_near_neighbors_are_drawn_more_often():
    search = NeighborSearch(torch.ones(1, 1, 4), 2)
    search.add(torch.stack([torch.full((1, 4), 1.5), torch.full((1, 4), 3.0)]))
    near = sum(float(search.draw([f"{i}"])[0, 0, 0]) == 1.5 for i in range(300)) / 300
    assert near == pytest.approx(1 / (1 + math.exp(0.25 - 4)), abs=0.03)


def test_ifid_searches_the_reference_data(averages):
    torch.manual_seed(0)
    pixels = torch.rand(4, 3, 1, 1).mul(2).sub(1).expand(4, 3, 16, 16)
    batches = [Batch(pixels, [f"{i}" for i in range(4)])]
    metric = InterpolatedFrechetDistance(Colors(), reference=[Batch(pixels[:1], ["train"])])
    result = evaluate(averages, batches, [metric]).metrics["interpolated_colors"]
    z = averages.encode(pixels).z
    between = slerp(z, z[:1].expand_as(z))[:, 0, :, None, None].expand(4, 3, 16, 16)
    originals, interpolated = FeatureStatistics(3), FeatureStatistics(3)
    originals.add(Colors()(pixels_to_uint8(pixels)))
    interpolated.add(Colors()(pixels_to_uint8(between)))
    assert result.value == pytest.approx(frechet_distance(originals, interpolated), rel=1e-4)
    assert "reference data" in metric.definition
    assert "neighbors from 1 samples" in metric.note
    for reference, message in (([], "has no samples"), ([Batch(pixels[..., :8], ["train"])], "differ in size")):
        with pytest.raises(SmaltiError, match=message):
            evaluate(averages, batches, [InterpolatedFrechetDistance(Colors(), reference)])
