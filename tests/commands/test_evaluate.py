"""`smalti evaluate`: images and videos by a named protocol."""

import json

import pytest

from smalti.__main__ import main
from smalti.eval import pretrained_weights as weights
from smalti.tokenizers.checkpoints import save


@pytest.fixture
def work(tmp_path, small, monkeypatch):
    """A folder with a tokenizer, on a machine that has no weights of metric networks and no network."""

    def refused(*args, **kwargs):
        raise OSError("no network")

    save(small(), tmp_path / "tokenizer")
    monkeypatch.setattr(weights, "_failures", {})
    monkeypatch.setattr("torch.hub.download_url_to_file", refused)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    monkeypatch.delenv("SMALTI_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(data, protocol):
    place = ["--out", "report", "--workers", "0", "--device", "cpu"]
    return main(["evaluate", "--tokenizer", "tokenizer", "--data", data, "--protocol", protocol, *place])


def test_clips_by_a_protocol_that_tells_length_size_and_rate(work, capsys):
    assert evaluate("clips:validation", "clip3x64@24") == 0
    shown = capsys.readouterr().out
    assert "psnr_clip" in shown
    assert "fvd_efflite0" in shown
    assert "examples.mp4" in shown
    told = json.loads((work / "report" / "metrics.json").read_text())
    assert (told["protocol"]["frames"], told["protocol"]["crop"], told["protocol"]["rate"]) == (3, 64, 24)
    assert (told["samples"], told["skipped"], told["data"]["source"]) == (5, 0, "clips:validation")
    assert told["metrics"]["fvd_efflite0"]["comparable"] is False
    assert "rfvd" not in told["metrics"]
    assert told["metrics"]["psnr_clip"]["value"] <= told["metrics"]["psnr"]["value"]
    # The tokenizer codes frame by frame: 2 x 4 bits for 4 x 4 pixels.
    assert told["codebook"]["bits_per_pixel"] == 0.5
    assert all((work / "report" / name).stat().st_size for name in ("contact_sheet.png", "examples.mp4"))


@pytest.mark.parametrize(
    ("data", "protocol", "says"),
    [
        ("clips:validation", "square64", "clips:validation holds videos, and the protocol square64 is for images"),
        ("photos:validation", "clip3x64", "photos:validation holds images, and the protocol clip3x64 is for videos"),
    ],
)
def test_the_protocol_must_be_of_the_datas_kind(work, capsys, data, protocol, says):
    assert evaluate(data, protocol) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in message
    assert not (work / "report").exists()
