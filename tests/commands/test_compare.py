"""`smalti compare`: one table for several reports, which must have been measured in the same way."""

import json
import re

import pytest

from smalti.__main__ import main
from smalti.data import Photos
from smalti.tokenizers.checkpoints import save


@pytest.fixture
def reports(tmp_path, small, monkeypatch, no_network):
    """Create a working folder with reports of two tokenizers, and reports with other data and another protocol."""
    monkeypatch.chdir(tmp_path)
    save(small(), "first")
    save(small(seed=5), "second")
    Photos("validation")[0].save("one-photo.png")
    for name, tokenizer, data, protocol in (
        ("report-first", "first", "photos:validation", "square32"),
        ("report-second", "second", "photos:validation", "square32"),
        ("report-data", "first", "one-photo.png", "square32"),
        ("report-protocol", "first", "photos:validation", "square48"),
    ):
        options = ["--workers", "0", "--device", "cpu", "--protocol", protocol, "--rivals", "none"]
        assert main(["evaluate", "--tokenizer", tokenizer, "--data", data, "--out", name, *options]) == 0
    return tmp_path


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_reports_are_compared_only_if_they_were_measured_in_the_same_way(reports, capsys, error_message):
    capsys.readouterr()
    assert main(["compare", "report-first", "report-second", "--out", "pages/comparison.html"]) == 0
    tables = capsys.readouterr().out
    rows = {cells[1].strip(): cells[2:4] for line in tables.splitlines() if len(cells := line.split("│")) == 5}
    values = [json.loads((reports / f"report-{n}" / "metrics.json").read_text()) for n in ("first", "second")]
    for metric, arrow, best in (("psnr", "↑", max), ("perceptual_efflite0", "↓", min)):
        numbers = [value["metrics"][metric]["value"] for value in values]
        cells = rows[f"{metric} {arrow}"]
        assert [f"{number:.4g}" for number in numbers] == [cell.split()[0] for cell in cells]
        assert [number == best(numbers) for number in numbers] == ["*" in cell for cell in cells]
        assert "(" not in cells[0]
        assert re.search(r"\([+-].*\[[+-].*, [+-].*\]\)", cells[1])
    assert [cell.strip() for cell in rows["bits per pixel"]] == ["0.5", "0.5"]

    assert "different samples" in error_message("compare", "report-first", "report-data")
    message = error_message("compare", "report-first", "report-protocol")
    assert "different protocols (square32 and square48)" in message
    assert tables.count("baseline") >= 2
    assert "report-second/" not in (page := (reports / "pages" / "comparison.html").read_text())
    assert page.count("data:image/png;base64,") == 9  # three samples: originals, and reconstructions of two tokenizers
    assert "pages/comparison.html already exists" in error_message(
        "compare", "report-first", "-o", "pages/comparison.html"
    )
    assert main(["compare", "report-first", "-o", "pages/comparison.html", "--overwrite"]) == 0  # one report has rivals
    assert "ends in .html" in error_message("compare", "report-first", "-o", "pages/comparison.png")
    assert "first is not a report" in error_message("compare", "report-first", "first")
    file = reports / "report-second" / "metrics.json"
    networks = {"perceptual_efflite0": {"sha256": "another"}}
    content = json.loads(file.read_text())
    edit(file, networks=networks)
    assert "different networks for perceptual_efflite0" in error_message("compare", "report-first", "report-second")
    del content["samples_sha256"]
    file.write_text(json.dumps(content))
    assert "earlier version" in error_message("compare", "report-first", "report-second")
    file.write_text("{")
    assert "damaged" in error_message("compare", "report-first", "report-second")
