"""Rivals in an evaluation: which samples they are measured on, by which metrics, and how reports state it."""

import csv
import io
import json

import pytest
import torch
from rich.console import Console

from smalti.eval.evaluate import evaluate
from smalti.eval.metrics import PSNR, SSIM
from smalti.eval.protocols import get_protocol
from smalti.eval.report import PLOT_FILE, Provenance, check_report_folder, write_report
from smalti.eval.rivals import MissingRival, build_rivals
from smalti.eval.rivals.measurement import SampleSelection
from smalti.eval.rivals.report import rivals_table

PROVENANCE = Provenance(protocol=get_protocol("square64"))


@pytest.fixture(scope="module")
def evaluation(build_tokenizer, photo_batches):
    rivals = [*build_rivals(["bicubic", "jpeg"]), MissingRival("avif", "it is not installed")]
    return evaluate(build_tokenizer(), photo_batches(), [PSNR(), SSIM()], rivals=rivals, rival_samples=3)


@pytest.fixture(scope="module")
def report(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert folder / PLOT_FILE in write_report(evaluation, folder, PROVENANCE)
    return folder


def test_rivals_and_the_tokenizer_are_compared_on_the_same_samples(evaluation):
    comparison = evaluation.rivals
    assert len(comparison.samples) == 3
    assert set(comparison.samples) < set(evaluation.samples)
    values = [evaluation.samples[name] for name in comparison.samples]
    for metric in ("psnr", "ssim"):
        assert comparison.metrics[metric] == pytest.approx(sum(row[metric] for row in values) / 3)
        for rival, result in comparison.rivals.items():
            assert result.metrics[metric] == pytest.approx(sum(row[f"{rival}_{metric}"] for row in values) / 3)
        # The same pictures as the baseline's, at the same rate.
        assert all(row[f"bicubic_{metric}"] == row[f"baseline_{metric}"] for row in values)
    assert comparison.bits_per_pixel == evaluation.bits_per_pixel == 0.5
    assert comparison.rivals["jpeg"].bits_per_pixel <= 0.5
    unselected = next(row for name, row in evaluation.samples.items() if name not in comparison.samples)
    assert not any(name.startswith("jpeg") for name in unselected)
    assert evaluation.left_out["avif"] == "it is not installed"


def test_the_selection_depends_on_the_names_only(build_tokenizer, photo_batches, evaluation):
    rivals = build_rivals(["bicubic"])
    one_by_one = evaluate(
        build_tokenizer(), photo_batches(batch_size=1)[::-1], [PSNR()], rivals=rivals, rival_samples=3
    )
    assert one_by_one.rivals.samples == evaluation.rivals.samples
    selection = SampleSelection(count=2)
    for name in "abcdef":
        selection.add([name], torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 1.0)
    assert [sample.name for sample in selection.restrict_over_ranks()] == [
        name for _, name in sorted(selection.samples)
    ]
    assert len(selection.samples) == 2


def test_the_report_states_rates_rules_and_curves(report):
    content = json.loads((report / "metrics.json").read_text())
    jpeg, bicubic = content["rivals"]["jpeg"], content["rivals"]["bicubic"]
    assert (jpeg["equal"], bicubic["equal"], jpeg["samples"]) == ("bytes", "nominal bits", 3)
    assert jpeg["bits_per_pixel"] < jpeg["file_bits_per_pixel"]
    assert "counted are the scan" in jpeg["description"]
    at_rate = {"bits_per_pixel": jpeg["bits_per_pixel"], "psnr": pytest.approx(jpeg["metrics"]["psnr"]["value"])}
    assert at_rate in jpeg["curve"]
    rates = [point["bits_per_pixel"] for point in jpeg["curve"]]
    assert len(rates) == 5
    assert rates == sorted(rates)
    measured_on = content["rivals_measured_on"]
    assert len(measured_on["samples"]) == 3
    assert measured_on["tokenizer"]["bits_per_pixel"] == 0.5
    assert measured_on["tokenizer"]["metrics"].keys() == jpeg["metrics"].keys() == {"psnr", "ssim"}


def test_values_per_sample_and_the_plot_are_written(report):
    rows = list(csv.DictReader(io.StringIO((report / "per_sample.csv").read_text())))
    assert sum(row["jpeg_psnr"] != "" for row in rows) == 3
    plot = (report / PLOT_FILE).read_text()
    for label in ("tokenizer", "bicubic", "JPEG"):
        assert f">{label}</text>" in plot


def test_a_report_without_rivals_has_no_plot(build_tokenizer, photo_batches, report, tmp_path):
    (tmp_path / PLOT_FILE).write_text("of an earlier report")
    with pytest.raises(Exception, match="rate_distortion"):
        check_report_folder(tmp_path)
    alone = evaluate(build_tokenizer(), photo_batches(), [PSNR()])
    write_report(alone, tmp_path, PROVENANCE, overwrite=True)
    assert not (tmp_path / PLOT_FILE).exists()
    assert json.loads((tmp_path / "metrics.json").read_text())["rivals"] == {}
    assert rivals_table(alone) is None


def test_the_table_has_a_column_per_rival(evaluation):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(rivals_table(evaluation))
    text = console.export_text()
    assert "Rivals at the tokenizer's bits, 3 of 5 images" in text
    header = next(line for line in text.splitlines() if "metric" in line)
    assert header.split() == ["metric", "tokenizer", "bicubic", "JPEG"]
    psnr = next(line for line in text.splitlines() if "psnr" in line)
    assert f"{evaluation.rivals.rivals['jpeg'].metrics['psnr']:.4g}" in psnr
