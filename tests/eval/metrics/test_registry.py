"""Metrics by name, by class path, and the default ones."""

import pytest

from smalti.errors import SmaltiError
from smalti.eval.metrics import PSNR, available_metrics, default_metrics, find_metric, registry
from smalti.eval.pretrained_weights import WeightsUnavailableError


def test_every_metric_of_the_package_is_found():
    names = {"psnr", "psnr_clip", "ssim", "st_lpips", "st_lpips_vgg"}
    names |= {"perceptual_efflite0", "fd_efflite0", "fvd_efflite0", "ifd_efflite0", "ifvd_efflite0"}
    names |= {"latent_spectrum", "equivariance_error", "effective_channels", "posterior_collapse"}
    assert available_metrics().keys() == names | {"lpips_vgg", "lpips_alex", "rfid", "rfvd", "ifid", "ifvd"}
    for name in sorted(names):
        metric = find_metric(name)(None)
        assert metric.name == name
        assert metric.definition
        assert metric.range[0] < metric.range[1]
        assert set(metric.media) <= {"images", "clips"}


def test_a_new_file_is_a_new_metric(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "zero.py").write_text(
        "from smalti.eval.metrics import PSNR, SampleMetric\n"
        "class Zero(SampleMetric):\n"
        "    name = 'zero'\n"
        "    def measure(self, original, candidate):\n"
        "        return original.new_zeros(len(original))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "__file__", str(package / "registry.py"))
    monkeypatch.setattr(registry, "__package__", "package")
    assert available_metrics().keys() == {"zero"}  # and not the imported PSNR, nor the abstract SampleMetric


def test_a_metric_on_request_has_no_proxy(no_network):
    for name in ("lpips_alex", "rfid", "rfvd"):
        with pytest.raises(WeightsUnavailableError, match="could not be downloaded"):
            find_metric(name)(None)


def test_class_paths_are_imported():
    assert isinstance(find_metric("smalti.eval.metrics.PSNR")(None), PSNR)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fid", "The metric 'fid' does not exist: use one of .*psnr"),
        ("nowhere.MyMetric", "nowhere.MyMetric cannot be imported"),
        ("smalti.eval.metrics.Nothing", "Nothing cannot be imported"),
        (".Nothing", "cannot be imported"),
        ("torch.nn.Linear", "torch.nn.Linear is not a metric"),
        ("smalti.eval.metrics.SampleMetric", "is not a metric"),
        ("smalti.eval.metrics.default_metrics", "is not a metric"),
    ],
)
def test_what_is_not_a_metric_raises_an_error(name, message):
    with pytest.raises(SmaltiError, match=message) as caught:
        find_metric(name)
    assert "\n" not in str(caught.value)


def test_a_class_that_needs_arguments_raises_an_error():
    with pytest.raises(SmaltiError, match="FrechetDistance cannot be built without arguments"):
        find_metric("smalti.eval.metrics.FrechetDistance")(None)


@pytest.mark.parametrize(
    ("clips", "names"),
    [
        (False, ["psnr", "ssim", "perceptual_efflite0", "st_lpips", "fd_efflite0"]),
        (True, ["psnr", "psnr_clip", "ssim", "perceptual_efflite0", "st_lpips", "fvd_efflite0"]),
    ],
)
def test_default_metrics_use_proxies_where_weights_are_not_available(no_network, clips, names):
    metrics = default_metrics(clips=clips)
    assert [metric.name for metric in metrics] == names
    for metric in metrics:
        metric.check_medium("clips" if clips else "images")


def test_shift_tolerant_lpips_is_left_out_without_its_package(no_network, monkeypatch):
    monkeypatch.setattr("smalti.eval.feature_networks.st_lpips._PACKAGE", "no_such_package")
    assert "st_lpips" not in [metric.name for metric in default_metrics(clips=False)]
    with pytest.raises(SmaltiError, match=r"need stlpips-pytorch, .*\[st_lpips\]"):
        find_metric("st_lpips")(None)
