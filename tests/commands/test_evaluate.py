"""`smalti evaluate`: protocols for images and videos, additional metrics, and the report."""

import json

import pytest

from smalti.__main__ import main
from smalti.tokenizers.checkpoints import save


@pytest.fixture
def workspace(tmp_path, small, monkeypatch, no_network):
    """Create a working folder with a tokenizer, on a machine without pretrained weights and network access."""
    save(small(), tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(data, protocol, *options):
    arguments = ["--out", "report", "--workers", "0", "--device", "cpu", *options]
    return main(["evaluate", "--tokenizer", "tokenizer", "--data", data, "--protocol", protocol, *arguments])


def read_report(folder):
    return json.loads((folder / "report" / "metrics.json").read_text())


def test_the_protocol_sets_frames_size_and_frame_rate(workspace, capsys):
    assert evaluate("clips:validation", "clip3x64@24") == 0
    output = capsys.readouterr().out
    assert "psnr_clip" in output
    assert "fvd_efflite0" in output
    assert "examples.mp4" in output
    report = read_report(workspace)
    assert (report["protocol"]["frames"], report["protocol"]["crop"], report["protocol"]["rate"]) == (3, 64, 24)
    assert (report["samples"], report["skipped"], report["data"]["source"]) == (5, 0, "clips:validation")
    assert report["metrics"]["fvd_efflite0"]["comparable"] is False
    assert "rfvd" not in report["metrics"]
    assert report["metrics"]["psnr_clip"]["value"] <= report["metrics"]["psnr"]["value"]
    # The tokenizer processes frames separately: 2 x 4 bits for 4 x 4 pixels.
    assert report["codebook"]["bits_per_pixel"] == 0.5
    assert all((workspace / "report" / name).stat().st_size for name in ("contact_sheet.png", "examples.mp4"))


def test_report_records_protocol_data_and_tokenizer(workspace, error_message):
    arguments = ["--tokenizer", "tokenizer", "--data", "photos:validation", "--protocol", "square32", "--workers", "0"]
    assert main(["evaluate", *arguments, "--out", "report"]) == 0
    report = read_report(workspace)
    assert report["samples"] == 4
    assert {"psnr", "ssim"} <= report["metrics"].keys()
    assert report["protocol"]["crop"] == 32
    assert report["data"]["source"] == "photos:validation"
    assert len(report["tokenizer"]["fingerprint"]) == 64
    # Without weights of the real network, the proxy is reported under its own name.
    assert report["metrics"]["perceptual_efflite0"]["comparable"] is False
    assert "lpips" not in report["metrics"]
    assert report["metrics"]["st_lpips"]["comparable"] is False  # nobody has published values for this protocol
    assert "protocol square32" in report["metrics"]["st_lpips"]["not_comparable_because"]
    assert report["networks"]["st_lpips"]["sha256"].startswith("b356b382")
    assert (workspace / "report" / "contact_sheet.png").exists()
    assert "overwrit" in error_message("evaluate", *arguments, "--out", "report")
    assert "square0" in error_message("evaluate", *arguments[:5], "square0", "--out", "other")
    assert "nowhere" in error_message("evaluate", *arguments[:3], "nowhere", "--out", "other2")


def test_additional_metrics_by_name_and_by_class_path(workspace, monkeypatch):
    (workspace / "own_metric.py").write_text(
        "from smalti.eval.metrics import SampleMetric\n"
        "class MaxError(SampleMetric):\n"
        "    name, higher_is_better, range, definition = 'max_error', False, (0.0, 255.0), 'largest error'\n"
        "    def measure(self, original, candidate):\n"
        "        return (original.int() - candidate.int()).abs().flatten(1).amax(1).double()\n"
    )
    monkeypatch.syspath_prepend(workspace)
    metrics = ["--metric", "own_metric.MaxError", "--metric", "psnr", "--metric", "fd_efflite0"]
    assert evaluate("photos:validation", "square32", *metrics) == 0
    report = read_report(workspace)
    assert list(report["metrics"]) == ["psnr", "ssim", "perceptual_efflite0", "st_lpips", "fd_efflite0", "max_error"]
    assert 0 < report["metrics"]["max_error"]["value"] <= 255
    header = (workspace / "report" / "per_sample.csv").read_text().splitlines()[0]
    assert header.endswith("baseline_max_error")


@pytest.mark.parametrize(
    ("data", "protocol", "options", "message"),
    [
        (
            "clips:validation",
            "square64",
            (),
            "clips:validation contains videos, but the protocol square64 is for images",
        ),
        (
            "photos:validation",
            "clip3x64",
            (),
            "photos:validation contains images, but the protocol clip3x64 is for videos",
        ),
        ("photos:validation", "square64", ("--metric", "nowhere.Metric"), "nowhere.Metric cannot be imported"),
        ("photos:validation", "square64", ("--metric", "psnr_clip"), "psnr_clip is a metric of clips"),
        ("photos:validation", "square64", ("--metric", "lpips_alex"), "alexnet weights are not on this machine"),
        ("photos:validation", "square64", ("--weights", "nowhere"), "--weights is nowhere, which is not a folder"),
        ("photos:validation", "square64", ("--batch-size", "0"), "'0' is not a whole number of at least 1"),
        ("photos:validation", "square64", ("--workers", "x"), "'x' is not a whole number of at least 0"),
        ("photos:validation", "square64", ("--max-bad", "2"), "'2' is not a number from 0 to 1"),
        ("photos:validation", "square64", ("--out", "tokenizer/config.json/x"), "config.json is not a folder"),
    ],
)
def test_invalid_options_print_one_sentence(workspace, capsys, data, protocol, options, message):
    assert evaluate(data, protocol, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (workspace / "report").exists()
