import csv
import json
from io import StringIO

import pytest
import torch
from PIL import Image
from rich.console import Console

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.protocols import protocol
from smalti.eval.report import FILES, FILM, Provenance, refuse_existing, table, write
from smalti.types import Batch
from smalti.video import probe, read_frames

PROVENANCE = Provenance(
    protocol=protocol("square64"), tokenizer={"fingerprint": "abc"}, data={"source": "photos"}, skipped=2
)


@pytest.fixture(scope="module")
def evaluation(request, stand_ins):
    from importlib import util

    spec = util.spec_from_file_location("eval_conftest", request.path.with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    parts = util.module_from_spec(spec)
    spec.loader.exec_module(parts)
    batches = parts.make_batches()
    batches[0].names[:] = ['a, "quoted"\nname', "bytes that are no UTF-8: \udcff"]
    return evaluate(parts.make_tokenizer(), batches, seed=5, perceptual=stand_ins[0], features=stand_ins[1], keep=3)


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_metrics_json_holds_what_is_needed_to_repeat_it(evaluation, tmp_path):
    paths = write(evaluation, tmp_path / "new" / "report", PROVENANCE)
    assert [path.name for path in paths] == list(FILES)
    told = strict(paths[0].read_text())
    assert told["protocol"]["resize"] == 64
    assert told["protocol"]["antialias"] is True
    assert (told["tokenizer"], told["data"], told["skipped"]) == ({"fingerprint": "abc"}, {"source": "photos"}, 2)
    assert (told["samples"], told["seed"]) == (5, 5)
    assert told["metrics"]["psnr"] == {"value": evaluation.metrics["psnr"].value, "comparable": True}
    assert told["metrics"]["fd_efflite0"]["comparable"] is False
    assert "5 samples" in told["metrics"]["fd_efflite0"]["note"]
    assert (told["baseline"]["factor"], told["baseline"]["bits_per_pixel"]) == ([1, 4, 4], 1.5)
    assert told["baseline"]["metrics"].keys() == told["metrics"].keys()
    assert not {"lpips", "rfid"} & told["metrics"].keys()
    assert told["codebook"]["codebook_size"] == 16
    assert [group["tokens"] for group in told["codebook"]["groups"]] == [1280, 1280]
    assert told["networks"]["perceptual_efflite0"]["sha256"].startswith("57934424")
    environment = told["environment"]
    assert (environment["device"], environment["dtype"], environment["processes"]) == ("cpu", "float32", 1)
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["packages"].keys() >= {"torchvision", "torchmetrics", "lpips"}
    order = sorted(evaluation.samples, key=lambda name: evaluation.samples[name]["psnr"])
    assert told["worst"] == order
    assert told["best"] == order[::-1]


def test_per_sample_csv_reads_back(evaluation, tmp_path):
    write(evaluation, tmp_path, PROVENANCE)
    with (tmp_path / "per_sample.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert {row.pop("name"): {k: float(v) for k, v in row.items()} for row in rows} == evaluation.samples


def test_the_sheet_shows_the_examples(evaluation, tmp_path):
    write(evaluation, tmp_path, PROVENANCE)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        pixels = torch.tensor(list(sheet.convert("RGB").tobytes()), dtype=torch.uint8).reshape(
            sheet.height, sheet.width, 3
        )
    original = evaluation.examples[0].original.permute(1, 2, 0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(pixels[34 : 34 + 256, 12 : 12 + 256], original)


def test_a_report_is_not_overwritten_unless_told(evaluation, tmp_path):
    refuse_existing(tmp_path)
    write(evaluation, tmp_path, PROVENANCE)
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(SmaltiError, match="not overwritten"):
        write(evaluation, tmp_path, PROVENANCE)
    assert (tmp_path / "metrics.json").read_text() == "mine"
    write(evaluation, tmp_path, PROVENANCE, overwrite=True)
    assert strict((tmp_path / "metrics.json").read_text())["seed"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)  # nothing temporary is left


def test_a_file_in_the_way(evaluation, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SmaltiError, match="is a file"):
        write(evaluation, tmp_path / "file", PROVENANCE)
    with pytest.raises(SmaltiError, match="cannot be written"):
        write(evaluation, tmp_path / "file" / "below", PROVENANCE)


@pytest.fixture
def of_clips(video_tokenizer, clip_batches_of):
    return evaluate(video_tokenizer, clip_batches_of(frames=9), keep=2)


def report_of(protocol_name):
    return Provenance(protocol=protocol(protocol_name))


def pixels_of(path):
    with Image.open(path) as sheet:
        return torch.tensor(list(sheet.convert("RGB").tobytes()), dtype=torch.uint8).reshape(
            sheet.height, sheet.width, 3
        )


def test_a_report_of_clips(of_clips, tmp_path):
    paths = write(of_clips, tmp_path, report_of("clip9x64@24"))
    assert [path.name for path in paths] == [*FILES, FILM]
    told = strict(paths[0].read_text())
    assert (told["protocol"]["frames"], told["protocol"]["rate"], told["protocol"]["crop"]) == (9, 24, 64)
    assert "first frames" in told["protocol"]["taken"]
    assert told["metrics"].keys() == told["definitions"].keys() == {"psnr", "psnr_clip", "ssim"}
    assert told["left_out"].keys() == {"lpips", "rfvd"}
    assert told["baseline"]["factor"] == [2, 4, 4]
    assert told["codebook"]["bits_per_pixel"] == of_clips.codebook.bits_per_pixel
    assert told["examples"] == ["bigbuckbunny.mp4@0", "bigbuckbunny.mp4@2"]


def test_the_sheet_shows_strips_of_frames(of_clips, tmp_path):
    write(of_clips, tmp_path, report_of("clip9x64@24"))
    sheet = pixels_of(tmp_path / "contact_sheet.png")
    example = of_clips.examples[0]
    for row, clip in enumerate((example.original, example.reconstruction)):  # original above reconstruction
        for column, frame in ((0, 0), (5, 8)):  # from the first frame to the last
            top, left = 34 + row * 162, 122 + column * 172
            tile = sheet[top : top + 160, left : left + 160]
            picture = Image.fromarray(clip[:, frame].permute(1, 2, 0).contiguous().numpy())
            expected = torch.tensor(list(picture.resize((160, 160), Image.Resampling.NEAREST).tobytes()))
            assert torch.equal(tile.flatten().long(), expected)


def test_the_film_shows_original_beside_reconstruction(of_clips, tmp_path):
    write(of_clips, tmp_path, report_of("clip9x64@24"))
    info = probe(tmp_path / FILM)
    assert (info.size, info.rate) == ((64, 128), 24)
    frames = torch.stack(list(read_frames(tmp_path / FILM)), dim=1)
    assert frames.shape[1] == 18
    for index, example in enumerate(of_clips.examples):
        shown = frames[:, index * 9 : index * 9 + 9].float()
        for half, clip in ((shown[..., :64], example.original), (shown[..., 64:], example.reconstruction)):
            assert (half - clip.float()).abs().mean() < 6  # H.264 has half of the colours' rows and columns


def test_clips_of_several_sizes_and_rates_share_a_film(tokenizer_of, tmp_path):
    batches = [Batch(torch.full((1, 3, 2, h, w), 0.5), [f"{h}x{w}"]) for h, w in ((16, 48), (32, 17))]
    result = evaluate(tokenizer_of(), batches)
    write(result, tmp_path, report_of("clip2"))
    info = probe(tmp_path / FILM)
    assert (info.size, info.rate) == ((32, 96), 24)


def test_a_report_of_images_leaves_no_film_behind(of_clips, evaluation, tmp_path):
    write(of_clips, tmp_path, report_of("clip9x64@24"))
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(SmaltiError, match="not overwritten"):
        write(evaluation, tmp_path, PROVENANCE)
    write(evaluation, tmp_path, PROVENANCE, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_no_examples_no_film(tokenizer_of, clip_batches_of, tmp_path):
    result = evaluate(tokenizer_of(), clip_batches_of(frames=2), keep=0)
    assert [path.name for path in write(result, tmp_path, report_of("clip2x64"))] == list(FILES)


def test_equal_images_stay_finite_in_json(tmp_path, tokenizer_of):
    """The baseline gives flat images back exactly, and an infinite PSNR is no JSON."""
    x = torch.zeros(2, 3, 64, 64)
    result = evaluate(tokenizer_of(), [Batch(x, ["a", "b"])])
    write(result, tmp_path, PROVENANCE)
    assert strict((tmp_path / "metrics.json").read_text())["baseline"]["metrics"]["psnr"]["value"] == 100


def test_the_table_marks_what_is_not_comparable(evaluation):
    console = Console(width=120, record=True, file=StringIO())
    console.print(table(evaluation))
    lines = console.export_text().splitlines()
    (psnr,) = [line for line in lines if "psnr" in line]
    assert f"{evaluation.metrics['psnr'].value:.4g}" in psnr
    assert "not comparable" not in psnr
    assert sum("not comparable" in line for line in lines) == 2
    assert any("codes used, token 1" in line for line in lines)
