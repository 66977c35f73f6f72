"""`smalti evaluate`: the report records everything that is needed to repeat the evaluation."""

import json

import pytest

from smalti.__main__ import main
from smalti.tokenizers.checkpoints import save


@pytest.mark.usefixtures("no_network")
def test_report_records_protocol_data_and_tokenizer(tmp_path, small, monkeypatch, error_message):
    save(small(), tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    arguments = ["--tokenizer", "tokenizer", "--data", "photos:validation", "--protocol", "square32", "--workers", "0"]
    assert main(["evaluate", *arguments, "--out", "report"]) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["samples"] == 4
    assert {"psnr", "ssim"} <= metrics["metrics"].keys()
    assert metrics["protocol"]["crop"] == 32
    assert metrics["data"]["source"] == "photos:validation"
    assert len(metrics["tokenizer"]["fingerprint"]) == 64
    # Without weights of the real network, the proxy is reported under its own name.
    assert metrics["metrics"]["perceptual_efflite0"]["comparable"] is False
    assert "lpips" not in metrics["metrics"]
    assert (tmp_path / "report" / "contact_sheet.png").exists()
    assert "overwrit" in error_message("evaluate", *arguments, "--out", "report")
    assert "square0" in error_message("evaluate", *arguments[:5], "square0", "--out", "other")
    assert "nowhere" in error_message("evaluate", *arguments[:3], "nowhere", "--out", "other2")
