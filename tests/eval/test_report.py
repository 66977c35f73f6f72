"""The files of a report, and the table for the terminal."""

import csv
import json
from io import StringIO

import pytest
import torch
from PIL import Image
from rich.console import Console
from torchvision.transforms.v2.functional import pil_to_tensor

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.metrics import PSNR, SSIM, FrechetDistance, PerceptualDistance, PSNRClip, SampleMetric
from smalti.eval.pictures import FOLDER
from smalti.eval.protocols import get_protocol
from smalti.eval.report import (
    FILES,
    VIDEO_FILE,
    Provenance,
    check_report_folder,
    results_table,
    to_dict,
    write_report,
)
from smalti.images import decode_image
from smalti.types import Batch
from smalti.video import probe, read_frames

PROVENANCE = Provenance(
    protocol=get_protocol("square64"), tokenizer={"fingerprint": "abc"}, data={"source": "photos"}, skipped=2
)
CLIP_PROVENANCE = Provenance(protocol=get_protocol("clip9x64@24"))


@pytest.fixture(scope="module")
def evaluation(build_tokenizer, photo_batches, perceptual_proxy, image_proxy):
    batches = photo_batches()
    batches[0].names[:] = ['a, "quoted"\nname', "not UTF-8: \udcff"]
    metrics = [PSNR(), SSIM(), PerceptualDistance(perceptual_proxy), FrechetDistance(image_proxy)]
    return evaluate(build_tokenizer(), batches, metrics, seed=5, num_examples=3)


@pytest.fixture
def clip_evaluation(video_tokenizer, clip_batches):
    return evaluate(video_tokenizer, clip_batches(frames=9), [PSNR(), PSNRClip(), SSIM()], num_examples=2)


def load_json(text):
    def fail(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=fail)


def test_metrics_json_contains_what_is_needed_to_repeat_the_evaluation(evaluation, tmp_path):
    paths = write_report(evaluation, tmp_path / "new" / "report", PROVENANCE)
    assert [path.name for path in paths] == list(FILES)
    report = load_json(paths[0].read_text())
    assert report["protocol"]["resize"] == 64
    assert report["protocol"]["antialias"] is True
    assert (report["tokenizer"], report["data"], report["skipped"]) == ({"fingerprint": "abc"}, {"source": "photos"}, 2)
    assert (report["samples"], report["seed"]) == (5, 5)
    assert report["metrics"]["psnr"] == {
        "value": evaluation.metrics["psnr"].value, "unit": "dB", "higher_is_better": True, "range": [0, 100],
        "comparable": False, "comparable_with": None,
        "not_comparable_because": "no published values with the protocol square64 are known",
    }  # fmt: skip
    assert "not a metric of published tables" in report["metrics"]["fd_efflite0"]["not_comparable_because"]
    assert report["metrics"]["fd_efflite0"]["range"] == [0, None]
    assert "5 samples" in report["metrics"]["fd_efflite0"]["note"]
    assert (report["baseline"]["equal"], report["baseline"]["bits_per_pixel"]) == ("nominal bits", 24 * 81 / 4096)
    assert report["bits"]["bits_per_pixel"] == 0.5
    assert report["baseline"]["metrics"].keys() == report["metrics"].keys() == report["definitions"].keys()
    assert report["baseline"]["metrics"]["psnr"] == {"value": evaluation.baseline["psnr"].value}
    assert not {"lpips", "rfid"} & report["metrics"].keys()
    assert report["codebook"]["codebook_size"] == 16
    assert [group["tokens"] for group in report["codebook"]["groups"]] == [1280, 1280]
    assert report["codebook"]["definitions"].keys() >= report["codebook"]["groups"][0].keys()
    assert report["networks"]["perceptual_efflite0"]["sha256"].startswith("57934424")
    environment = report["environment"]
    assert (environment["device"], environment["dtype"], environment["processes"]) == ("cpu", "float32", 1)
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["packages"].keys() >= {"torchvision", "torchmetrics", "lpips"}
    order = sorted(evaluation.samples, key=lambda name: evaluation.samples[name]["psnr"])
    assert report["worst"] == order
    assert report["best"] == order[::-1]


def test_per_sample_csv_can_be_read_back(evaluation, tmp_path):
    write_report(evaluation, tmp_path, PROVENANCE)
    with (tmp_path / "per_sample.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    metrics = ["psnr", "ssim", "perceptual_efflite0"]
    assert reader.fieldnames == ["name", *metrics, *(f"baseline_{name}" for name in metrics)]
    assert {row.pop("name"): {k: float(v) for k, v in row.items()} for row in rows} == evaluation.samples


def test_the_contact_sheet_shows_the_examples(evaluation, tmp_path):
    write_report(evaluation, tmp_path, PROVENANCE)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        image = sheet.convert("RGB")
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)
    original = evaluation.examples[0].original.permute(1, 2, 0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(pixels[34 : 34 + 256, 12 : 12 + 256], original)


def test_a_report_is_overwritten_only_on_request(evaluation, tmp_path):
    check_report_folder(tmp_path)
    write_report(evaluation, tmp_path, PROVENANCE)
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(SmaltiError, match="not overwritten"):
        write_report(evaluation, tmp_path, PROVENANCE)
    assert (tmp_path / "metrics.json").read_text() == "mine"
    write_report(evaluation, tmp_path, PROVENANCE, overwrite=True)
    assert load_json((tmp_path / "metrics.json").read_text())["seed"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*FILES, FOLDER))  # no temporary files remain


def test_a_file_instead_of_a_folder_raises_an_error(evaluation, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SmaltiError, match="is a file"):
        write_report(evaluation, tmp_path / "file", PROVENANCE)
    with pytest.raises(SmaltiError, match="cannot be written"):
        write_report(evaluation, tmp_path / "file" / "below", PROVENANCE)


def test_a_report_of_clips(clip_evaluation, tmp_path):
    paths = write_report(clip_evaluation, tmp_path, CLIP_PROVENANCE)
    assert [path.name for path in paths] == [*FILES, VIDEO_FILE]
    report = load_json(paths[0].read_text())
    protocol = report["protocol"]
    assert (protocol["frames"], protocol["rate"], protocol["crop"]) == (9, 24, 64)
    assert "first frames" in protocol["taken"]
    assert report["metrics"].keys() == report["definitions"].keys() == {"psnr", "psnr_clip", "ssim"}
    assert report["left_out"] == {}
    assert report["baseline"]["bits_per_pixel"] == pytest.approx(report["bits"]["bits_per_pixel"], rel=0.04)
    assert report["codebook"]["bits_per_pixel"] == clip_evaluation.codebook.bits_per_pixel
    assert report["examples"] == [example.name for example in clip_evaluation.examples]
    assert len(report["examples"]) == 2


def test_the_video_shows_originals_next_to_reconstructions(clip_evaluation, tmp_path):
    write_report(clip_evaluation, tmp_path, CLIP_PROVENANCE)
    info = probe(tmp_path / VIDEO_FILE)
    assert (info.size, info.rate) == ((64, 128), 24)
    frames = torch.stack(list(read_frames(tmp_path / VIDEO_FILE)), dim=1)
    assert frames.shape[1] == 18
    for index, example in enumerate(clip_evaluation.examples):
        shown = frames[:, index * 9 : index * 9 + 9].float()
        for half, clip in ((shown[..., :64], example.original), (shown[..., 64:], example.reconstruction)):
            assert (half - clip.float()).abs().mean() < 6  # H.264 halves the resolution of the colors


def test_clips_of_several_sizes_share_a_video_of_the_default_rate(build_tokenizer, tmp_path):
    batches = [Batch(torch.full((1, 3, 2, h, w), 0.5), [f"{h}x{w}"]) for h, w in ((16, 48), (32, 17))]
    result = evaluate(build_tokenizer(), batches, [PSNR()])
    write_report(result, tmp_path, Provenance(protocol=get_protocol("clip2")))
    info = probe(tmp_path / VIDEO_FILE)
    assert (info.size, info.rate) == ((32, 96), 24)


def test_a_report_of_images_removes_an_old_video(clip_evaluation, evaluation, tmp_path):
    write_report(clip_evaluation, tmp_path, CLIP_PROVENANCE)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(SmaltiError, match="not overwritten"):
        write_report(evaluation, tmp_path, PROVENANCE)
    write_report(evaluation, tmp_path, PROVENANCE, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*FILES, FOLDER))
    pictures = json.loads((tmp_path / FILES[0]).read_text())["pictures"]
    kept = {picture[kind] for picture in pictures for kind in ("original", "reconstruction")}
    assert all(f"{FOLDER}/{path.name}" in kept for path in (tmp_path / FOLDER).iterdir())


def test_no_video_without_examples(build_tokenizer, clip_batches, tmp_path):
    result = evaluate(build_tokenizer(), clip_batches(frames=2), [PSNR()], num_examples=0)
    assert [path.name for path in write_report(result, tmp_path, CLIP_PROVENANCE)] == list(FILES)


def test_identical_images_have_a_finite_psnr_in_json(tmp_path, build_tokenizer):
    """The baseline restores constant images exactly, and JSON has no infinity."""
    x = torch.zeros(2, 3, 64, 64)
    result = evaluate(build_tokenizer(), [Batch(x, ["a", "b"])], [PSNR()])
    write_report(result, tmp_path, PROVENANCE)
    report = load_json((tmp_path / "metrics.json").read_text())
    assert report["baseline"]["metrics"]["psnr"]["value"] == 100


class MaxError(SampleMetric):
    name, higher_is_better, range, comparable = "max_error", False, (0.0, 255.0), False
    definition = "largest absolute error"

    def measure(self, original, candidate):
        return (original.int() - candidate.int()).abs().flatten(1).amax(1).double()


def test_samples_are_ranked_by_the_first_metric_with_values_per_sample(
    build_tokenizer, photo_batches, image_proxy, tmp_path
):
    result = evaluate(build_tokenizer(), photo_batches(), [FrechetDistance(image_proxy), MaxError(), PSNR()])
    report = to_dict(result, PROVENANCE)
    # A lower error is better. Samples with the same error are sorted by name.
    order = sorted(result.samples, key=lambda name: (-result.samples[name]["max_error"], name))
    assert (report["worst"], report["best"]) == (order, order[::-1])
    write_report(result, tmp_path, PROVENANCE)
    none = evaluate(build_tokenizer(), photo_batches(), [FrechetDistance(image_proxy)])
    assert to_dict(none, PROVENANCE)["best"] == []
    write_report(none, tmp_path, PROVENANCE, overwrite=True)


def test_pictures_show_each_example_and_its_reconstruction(evaluation, clip_evaluation, tmp_path):
    write_report(evaluation, tmp_path / "images", PROVENANCE)
    report = load_json((tmp_path / "images" / "metrics.json").read_text())
    assert [picture["name"] for picture in report["pictures"]] == [example.name for example in evaluation.examples]
    for picture, example in zip(report["pictures"], evaluation.examples, strict=True):
        for kind in ("original", "reconstruction"):
            pixels = pil_to_tensor(decode_image(tmp_path / "images" / picture[kind]))
            assert torch.equal(pixels, getattr(example, kind))
    write_report(clip_evaluation, tmp_path / "clips", CLIP_PROVENANCE)
    report = load_json((tmp_path / "clips" / "metrics.json").read_text())
    strip = pil_to_tensor(decode_image(tmp_path / "clips" / report["pictures"][0]["reconstruction"]))
    assert report["pictures"][0]["frames"] == 3
    clip = clip_evaluation.examples[0].reconstruction
    assert torch.equal(strip, torch.cat([clip[:, 0], clip[:, 4], clip[:, 8]], dim=2))


def test_the_table_marks_values_that_are_not_comparable(evaluation):
    console = Console(width=120, record=True, file=StringIO())
    console.print(results_table(evaluation, PROVENANCE))
    lines = console.export_text().splitlines()
    psnr, caption = [line for line in lines if "psnr" in line]
    assert "psnr, ssim: not comparable with papers (no published values with" in caption
    assert f"{evaluation.metrics['psnr'].value:.4g}" in psnr
    assert "psnr ↑" in psnr
    assert any("fd_efflite0 ↓" in line for line in lines)
    assert "not comparable" not in psnr
    assert sum("not a metric of papers" in line for line in lines) == 2
    assert any("codewords used, token 1" in line and "of 16 reachable" in line for line in lines)
