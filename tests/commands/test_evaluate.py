"""`smalti evaluate`: protocols for images and videos, additional metrics, and the report."""

import json
from pathlib import Path

import pytest
import torch

from smalti.__main__ import main
from smalti.eval.linear_codec import CODEC_FILE, LinearCodec
from smalti.tokenizers.checkpoints import save


@pytest.fixture
def workspace(tmp_path, small, monkeypatch, no_network):
    """Create a working folder with a tokenizer, on a machine without pretrained weights and network access."""
    save(small(), tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(data, protocol, *options):
    arguments = ["--out", "report", "--workers", "0", "--device", "cpu", "--rivals", "none", *options]
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
    arguments += ["--rivals", "none"]
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
    assert evaluate("photos:validation", "square32", *metrics, "--rivals", "jpeg") == 0
    report = read_report(workspace)
    assert list(report["metrics"]) == ["psnr", "ssim", "perceptual_efflite0", "st_lpips", "fd_efflite0", "max_error"]
    assert 0 < report["metrics"]["max_error"]["value"] <= 255
    header = (workspace / "report" / "per_sample.csv").read_text().splitlines()[0]
    assert "baseline_max_error" in header
    assert header.endswith("jpeg_max_error")
    assert 0 < report["rivals"]["jpeg"]["metrics"]["max_error"]["value"] <= 255


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
        ("photos:validation", "square64", ("--rivals", "h264"), "The rival 'h264' takes no images"),
        ("photos:validation", "square64", ("--rival-samples", "0"), "'0' is not a whole number of at least 1"),
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


@pytest.fixture
def exported_codec(workspace):
    """Put a linear codec next to the tokenizer, as `smalti export` does."""
    torch.manual_seed(0)
    LinearCodec.fit([torch.rand(4, 3, 32, 32) * 2 - 1], (1, 4, 4), bits=8).save(workspace / "tokenizer" / CODEC_FILE)
    return workspace / "tokenizer" / CODEC_FILE


def test_the_linear_codec_of_the_folder_is_a_rival(exported_codec, workspace):
    assert evaluate("photos:validation", "square32", "--rivals", "linear_codec,bicubic", "--rival-samples", "2") == 0
    report = read_report(workspace)
    assert list(report["rivals"]) == ["linear_codec", "bicubic"]
    assert len(report["rivals_measured_on"]["samples"]) == report["rivals"]["bicubic"]["samples"] == 2
    assert str(Path("tokenizer", CODEC_FILE)) in report["rivals"]["linear_codec"]["description"]
    assert report["rivals"]["linear_codec"]["bits_per_pixel"] <= report["codebook"]["bits_per_pixel"]
    # An export of the folder has the codec too; an export without a codec removes that of an earlier one.
    assert main(["export", "tokenizer", "--out", "again"]) == 0
    assert Path("again", CODEC_FILE).read_bytes() == exported_codec.read_bytes()
    exported_codec.unlink()
    assert main(["export", "tokenizer", "--out", "again", "--overwrite"]) == 0
    assert not Path("again", CODEC_FILE).exists()


def test_a_linear_codec_is_fitted_on_training_data_only(workspace, capsys):
    options = ["--rivals", "linear_codec", "--rival-samples", "1"]
    assert evaluate("photos:validation", "square32", *options) == 0
    assert "--linear-codec my/train" in read_report(workspace)["left_out"]["linear_codec"]
    fitted = [*options, "--overwrite", "--linear-codec"]
    assert evaluate("photos:validation", "square32", *fitted, "photos:train") == 0
    codec = read_report(workspace)["rivals"]["linear_codec"]
    assert codec["description"].endswith("fitted on 12 samples of photos:train")
    assert len(codec["curve"]) == 5
    assert (workspace / "report" / "rate_distortion.svg").is_file()
    for data, message in (
        ("photos:all", "is no fair rival (4 of 4 validation images are also training images"),
        ("clips:train", "contains no images"),
        ("nowhere.safetensors", "is not a linear codec"),
    ):
        assert evaluate("photos:validation", "square32", *fitted, data) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_codec_of_another_tokenizer_is_left_out(exported_codec, workspace):
    LinearCodec.fit([torch.rand(4, 3, 32, 32)], (1, 4, 4), channels=3).save(exported_codec)
    assert evaluate("photos:validation", "square32", "--rivals", "linear_codec") == 0
    reason = read_report(workspace)["left_out"]["linear_codec"]
    assert "3 channels per 4 x 4 pixels, but the tokenizer has 8 bits per 4 x 4 pixels" in reason


def test_ifid_searches_neighbors_in_the_training_set(workspace, capsys):
    assert evaluate("photos:validation", "square32", "--neighbors", "photos:train") == 2
    assert "--neighbors is for iFID" in capsys.readouterr().err
    options = ["--metric", "ifd_efflite0", "--overwrite", "--neighbors"]
    values = []
    for neighbors in ("photos:train", "photos:validation"):
        assert evaluate("photos:validation", "square32", *options, neighbors) == 0
        report = read_report(workspace)
        assert report["data"]["neighbors"] == neighbors
        assert "in the reference data" in report["definitions"]["ifd_efflite0"]
        values.append(report["metrics"]["ifd_efflite0"]["value"])
    assert values[0] != values[1]
