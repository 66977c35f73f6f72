"""What all metrics share: custom metrics, states without networks, and merging."""

import copy
import pickle
import sys
import textwrap

import pytest
import torch
from torch.testing import assert_close

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.metrics import PSNR, SSIM, FrechetDistance, PerceptualDistance, PSNRClip
from smalti.eval.protocols import get_protocol
from smalti.eval.report import Provenance, to_dict

OWN_METRICS = '''
import torch
from torch import nn

from smalti.eval.metrics import Metric, SampleMetric


class Brightness(SampleMetric):
    """Difference in brightness per sample."""

    name = "brightness"
    higher_is_better = False
    range = (-255.0, 255.0)
    comparable = False
    definition = "mean of the original minus mean of the reconstruction"

    def measure(self, original, candidate):
        return (original.double() - candidate.double()).flatten(1).mean(1)


class Worst(Metric):
    """Largest error in the whole dataset, by a network."""

    name = "worst"
    higher_is_better = False
    range = (0.0, 255.0)
    definition = "largest absolute error in the dataset"
    media = ("images",)

    def __init__(self):
        super().__init__()
        self.network = nn.Identity()

    def reset(self):
        self.errors = {}

    def update(self, original, candidates, names):
        for candidate, samples in candidates.items():
            error = int((self.network(original.int()) - samples.int()).abs().max())
            self.errors[candidate] = max(error, self.errors.get(candidate, 0))

    def compute(self, candidate):
        return float(self.errors[candidate])

    def merge(self, other):
        for candidate, error in other.errors.items():
            self.errors[candidate] = max(error, self.errors.get(candidate, 0))
'''


@pytest.fixture
def own_metrics(tmp_path, monkeypatch):
    """A module outside the package."""
    (tmp_path / "own_metrics.py").write_text(textwrap.dedent(OWN_METRICS))
    monkeypatch.syspath_prepend(tmp_path)
    import own_metrics  # pyright: ignore

    yield own_metrics
    del sys.modules["own_metrics"]


def test_own_metrics_are_evaluated_and_reported(own_metrics, build_tokenizer, photo_batches):
    metrics = [PSNR(), own_metrics.Brightness(), own_metrics.Worst()]
    result = evaluate(build_tokenizer(), photo_batches(), metrics)
    assert list(result.metrics) == list(result.baseline) == ["psnr", "brightness", "worst"]
    columns = {"psnr", "brightness", "baseline_psnr", "baseline_brightness"}
    assert all(values.keys() == columns for values in result.samples.values())
    mean = sum(values["brightness"] for values in result.samples.values()) / 5
    assert result.metrics["brightness"].value == pytest.approx(mean)
    assert result.metrics["worst"].value == max(
        int((e.original.int() - e.reconstruction.int()).abs().max()) for e in result.examples
    )
    report = to_dict(result, Provenance(protocol=get_protocol("native")))
    assert report["metrics"]["brightness"]["comparable"] is False
    assert report["metrics"]["worst"]["higher_is_better"] is False
    assert "largest absolute error" in report["definitions"]["worst"]


def test_a_metric_can_be_used_again(build_tokenizer, photo_batches, image_proxy):
    metrics = [PSNR(), FrechetDistance(image_proxy)]
    first, second = (evaluate(build_tokenizer(), photo_batches(), metrics) for _ in range(2))
    assert first.metrics["fd_efflite0"].note == second.metrics["fd_efflite0"].note
    assert first.metrics["psnr"].value == pytest.approx(second.metrics["psnr"].value)


def test_parts_merge_without_the_networks(photos, add_noise, perceptual_proxy, image_proxy, own_metrics):
    def build():
        return [PSNR(), SSIM(), PerceptualDistance(perceptual_proxy), FrechetDistance(image_proxy), own_metrics.Worst()]

    candidates = {"reconstruction": add_noise(photos, 0.1), "jpeg": add_noise(photos, 0.2)}
    names = [str(i) for i in range(len(photos))]

    def update(metrics, part):
        for metric in metrics:
            metric.update(photos[part], {name: samples[part] for name, samples in candidates.items()}, names[part])

    whole, left, right, empty = build(), build(), build(), build()
    with torch.no_grad():
        update(whole, slice(None))
        update(left, slice(3))
        update(right, slice(3, None))
    for expected, *parts in zip(whole, empty, left, right, strict=True):
        data = [pickle.dumps(part.without_networks()) for part in parts]
        assert max(map(len, data)) < 2**20
        merged, *others = map(pickle.loads, data)
        for other in others:
            merged.merge(other)
        for candidate in candidates:
            # The features of another batch size differ by float32 rounding in about 50 layers.
            assert_close(merged.compute(candidate), expected.compute(candidate), rtol=1e-4, atol=0)


def test_without_networks_leaves_the_metric_unchanged(image_proxy):
    metric = FrechetDistance(image_proxy)
    state = metric.without_networks()
    assert not hasattr(state, "network")
    assert metric.network is image_proxy
    assert copy.copy(state).name == "fd_efflite0"


def test_networks_follow_the_device(image_proxy):
    class OnMeta(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

    metric = PSNR()
    metric.network = OnMeta()
    assert metric.to("meta") is metric
    assert metric.network.weight.device.type == "meta"


def test_a_metric_of_clips_raises_an_error_for_images():
    PSNRClip().check_medium("clips")
    PSNR().check_medium("images")
    with pytest.raises(SmaltiError, match="psnr_clip is a metric of clips"):
        PSNRClip().check_medium("images")


def test_frame_metrics_average_over_frames(clips, add_noise):
    restored = add_noise(clips, 0.1)
    assert_close(PSNR().measure(clips, restored), mean_over_frames(psnr, clips, restored))
    assert PSNR().measure(clips, restored).dtype == SSIM().measure(clips, restored).dtype == torch.float64
    with pytest.raises(ValueError, match="differ in shape"):
        PSNR().measure(clips, clips[:, :, :8])
