"""The table of published autoencoders: sizes that others have published, its rows and its page."""

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import smalti
from smalti import tokenizers
from smalti.cli.recipes import load_recipes
from smalti.errors import SmaltiError
from smalti.tokenizers import Tokenizer, with_channels
from smalti.tokenizers.checkpoints import save

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "benchmarks" / "baselines.py")
PARAMETERS = {
    "SD 1.5, SDXL": (34_163_664, 83_653_863),
    "SD 3.5, FLUX.1": (34_274_208, 83_819_683),
    "FLUX.2": (34_425_856, 84_046_115),
    "DC-AE f32c32 (Sana)": (153_027_104, 312_250_275),
    "Wan 2.1, Qwen-Image": (53_596_928, 126_892_531),
    "Wan 2.2 TI2V-5B": (149_637_088, 704_688_668),
    "HunyuanVideo": (100_342_464, 246_478_803),
    "HunyuanVideo 1.5": (389_324_544, 1_260_634_115),
    "Cosmos CV8x8x8": (42_914_864, 105_653_696),
    "Cosmos CV4x8x8": (45_343_792, 110_208_816),
    "Cosmos CI8x8": (33_472_160, 81_384_636),
    "Cosmos CI16x16": (35_831_968, 84_334_524),
    "Cosmos DI8x8": (34_579_590, 83_599_506),
    "Cosmos DI16x16": (36_939_398, 86_549_394),
    "Cosmos DV4x8x8": (46_647_302, 112_619_766),
    "Cosmos DV8x16x16": (45_537_158, 110_898_294),
}
"""Parameters of the encoder and of all networks."""


@pytest.fixture(scope="module")
def baselines():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("baselines")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def entry(baselines, name):
    return next(entry for entry in baselines.AUTOENCODERS if entry.name == name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_the_published_ones(name, baselines):
    with torch.device("meta"):
        tokenizer = entry(baselines, name).build()
    assert all(weight.device.type == "meta" for weight in tokenizer.parameters())
    found = [sum(p.numel() for p in module.parameters()) for module in (tokenizer.encoder, tokenizer)]
    assert tuple(found) == PARAMETERS[name]


def test_counts_of_a_row(baselines):
    row = baselines.count(entry(baselines, "SD 1.5, SDXL").build_without_memory(), (1, 3, 64, 64))
    assert (row["stride"], row["code"], row["bits"]) == ("1x8x8", "4 channels", "1")
    larger = baselines.count(entry(baselines, "SD 1.5, SDXL").build_without_memory(), (1, 3, 128, 128))
    assert 4 <= larger["flop"][0] / row["flop"][0] < 4.5  # attention grows faster than the pixels
    joint = baselines.count(entry(baselines, "OneVAE 8x8x8").build_without_memory(), (1, 3, 9, 32, 32))
    assert joint["code"] == "256 channels or 2 x 15.97 bits"
    same = [baselines.count(entry(baselines, name).build_without_memory(), (1, 3, 5, 32, 32))["flop"]
            for name in ("Wan 2.1, Qwen-Image", "OneVAE 4x8x8 (Wan 2.1 in Smalti)")]  # fmt: skip
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("distill", "SD 1.5, SDXL"), ("distill_wan", "Wan 2.1, Qwen-Image"), ("distill_ltx", "LTX-Video 0.9.0")],
)
def test_distilled_decoders_need_a_tenth_of_the_operations(baselines, recipe, name):
    published = entry(baselines, name)
    teacher = published.build_without_memory()
    decoder = load_recipes(f"finetune/{recipe}.yaml")["model"]["tokenizer"]["init_args"]["decoder"]
    with torch.device("meta"):
        student = getattr(tokenizers, decoder["class_path"].rpartition(".")[2])(**decoder["init_args"])
    shape = baselines.sample_shape(published.medium, 64, 9)
    counts = [
        baselines.count(Tokenizer(teacher.encoder, teacher.bottleneck, part), shape)["flop"][1]
        for part in (teacher.decoder, student)
    ]
    assert counts[0] > 10 * counts[1]


@pytest.mark.slow
def test_a_row_with_weights_is_measured_and_written_to_a_page(tmp_path):
    pytest.importorskip("diffusers")
    path = runpy.run_path(str(ROOT / "tests" / "diffusers_models.py"))["write"]("sd", tmp_path / "vae")
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- table: benchmarks/baselines.py -->\nold\n<!-- end of the table -->\n\nafter\n")
    options = ["--size", "256", "--only", "mine", "--weights", f"mine={path}", "--update", str(page)]
    options += ["--rows", str(tmp_path / "rows.jsonl")]
    subprocess.run([sys.executable, SCRIPT, *options], check=True, cwd=ROOT, capture_output=True)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# A\n")
    assert text.endswith("after\n")
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["encode"]["seconds"] > 0
    assert row["encode"]["mib"] > 0  # decoding can reuse what encoding has freed
    assert f"{row['quality']['psnr']:.2f}" in text
    assert 0 < row["quality"]["psnr"] < 60


@pytest.mark.parametrize(("model", "medium"), [("sd", "image"), ("wan21", "video")])
def test_quality_columns_fill_for_images_and_clips(baselines, model, medium, tmp_path):
    pytest.importorskip("diffusers")
    path = runpy.run_path(str(ROOT / "tests" / "diffusers_models.py"))["write"](model, tmp_path / "vae")
    tokenizer = baselines.open_weights(path, None)
    assert baselines.medium_of(tokenizer) == medium
    request = {"size": 32, "frames": 5, "images": "photos:validation", "videos": "clips:validation", "device": "cpu"}
    quality = baselines.measure_quality(tokenizer, medium, request)
    assert 0 < quality["psnr"] < 60
    row = baselines.count(tokenizer.to("meta"), baselines.sample_shape(medium, 32, 5))
    row |= {"origin": path, "encode": "not run", "decode": "not run"}
    with_weights = baselines.format_row("mine", row | {"quality": quality}, weights=True)
    assert f"| given | {quality['psnr']:.2f} | {quality['ssim']:.3f} | {quality['perceptual']:.3f} (" in with_weights
    assert baselines.format_row("mine", row, weights=False).endswith("| random |  |  |  |")


def test_a_step_that_takes_too_long_is_stopped(baselines):
    def endless():
        while True:
            torch.rand(100).sum()

    request = {"device": "cpu", "cap": 0.2, "memory": 8, "quantity": "seconds"}
    assert baselines.measure_step(endless, request) == "> 0.2"
    assert 0 <= baselines.measure_step(lambda: None, request) < 0.2


def test_mistakes_are_one_sentence(baselines, tmp_path, monkeypatch):
    for options, message in (
        (["--weights", "FLUX.2"], "give NAME=PATH"),
        (["--only", "nothing"], "No name contains nothing"),
    ):
        monkeypatch.setattr(sys, "argv", ["baselines.py", *options])
        with pytest.raises(SmaltiError, match=message):
            baselines.make_requests(baselines.parse())
    (tmp_path / "page.md").write_text("no table")
    with pytest.raises(SmaltiError, match="has no place for the table"):
        baselines.update_page(tmp_path / "page.md", "table")
    path = runpy.run_path(str(ROOT / "tests" / "diffusers_models.py"))["write"]("sd", tmp_path / "vae")
    with pytest.raises(SmaltiError, match=r"parameters, but FLUX\.2 has"):
        baselines.open_weights(path, entry(baselines, "FLUX.2"))
    save(with_channels(smalti.load(path), {"rgb": 3, "nir": 1}), tmp_path / "bands")
    with pytest.raises(SmaltiError, match="has the channels rgb 3, nir 1, but the rows are for red, green and blue"):
        baselines.open_weights(str(tmp_path / "bands"), None)
