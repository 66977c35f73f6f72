"""Fine-tuning for other channels with the real commands: multi-band TIFF, 16-bit PNG and npy files."""

import json
import runpy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import smalti
from smalti.__main__ import main
from smalti.data import open_source
from smalti.pixels import to_pixels
from smalti.video import read_frames

write = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))["write"]
SMALL = [
    "--trainer.max_steps", "15", "--trainer.val_check_interval", "15", "--trainer.accelerator", "cpu",
    "--trainer.precision", "32-true", "--data.size", "32", "--data.batch_size", "2", "--data.workers", "0",
    "--model.optimizer.lr", "1e-2", "--model.scheduler.warmup_steps", "2", "--trainer.log_every_n_steps", "1",
]  # fmt: skip


def metric_values(report):
    """Return the metrics of a report by name."""
    metrics = json.loads((Path(report) / "metrics.json").read_text())["metrics"]
    return {name: metric["value"] for name, metric in metrics.items()}


@pytest.fixture
def bands(tmp_path):
    """Return a folder of images of 6 bands with 16 bits: TIFF with bands first and last, and npy."""
    tifffile = pytest.importorskip("tifffile")
    from skimage import data

    folder = tmp_path / "bands"
    folder.mkdir()
    for index, name in enumerate(("coffee", "cat", "chelsea", "astronaut")):
        photo = getattr(data, name)()[:96, :96].astype(np.uint16) * 39  # reflectances up to 9945
        near = photo[..., :1] // 2 + 3000
        values = np.concatenate([photo, near, near // 2, 10000 - photo[..., 1:2]], axis=-1)
        if index == 0:
            tifffile.imwrite(folder / f"{name}.tif", values, planarconfig="contig")
        elif index == 1:
            tifffile.imwrite(folder / f"{name}.tiff", values.transpose(2, 0, 1), photometric="minisblack")
        else:
            np.save(folder / f"{name}.npy", values)
    (folder / "channels.yaml").write_text("channels: {rgb: 3, nir: 1, swir: 2}\nrange: [0, 10000]\n")
    return folder


def test_finetune_learns_new_bands_and_measures_each_group(bands, tmp_path, monkeypatch, capsys, error_message):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    source = write("sd", tmp_path / "vae")
    own = [*SMALL, "--model.weights.l1_nir", "1.0"]
    command = ["finetune", source, "--data", str(bands), "--protocol", "square32", "--out", "out"]
    assert main([*command, "--", *own]) == 0
    assert "psnr_nir" in capsys.readouterr().out
    before, after = metric_values("out/before"), metric_values("out/after")
    groups = {f"{metric}_{group}" for metric in ("psnr", "ssim") for group in ("rgb", "nir", "swir")}
    assert before.keys() == after.keys() == groups | {"psnr"}
    for group in ("nir", "swir"):
        assert after[f"psnr_{group}"] > before[f"psnr_{group}"]
    page = Path("out/comparison.html").read_text()
    assert "psnr_swir" in page
    assert "From left to right: rgb, nir, swir" in page
    assert "--frames:3" in page
    assert not Path("out/diffusers").exists()

    trained = smalti.load("out/tokenizer")
    assert trained.channels == {"rgb": 3, "nir": 1, "swir": 2}
    x = open_source("out/data/validation", any_channels=True)[0][None]
    assert trained(x)[0].shape == x.shape == (1, 6, 96, 96)
    assert list(Path("out/runs").rglob("reconstructions/*.png"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(Path("out/runs").rglob("events*")).parent)).Reload()
    logged = {f"train/{loss}_{group}" for loss in ("l1", "mse") for group in ("rgb", "nir", "swir")}
    assert logged | {"val/psnr_swir", "val/psnr"} <= set(events.Tags()["scalars"])
    # At step 0, the red, green and blue of the result are those of the source.
    start, original = smalti.load("out/start"), smalti.load(source)
    torch.testing.assert_close(start(x)[0][:, :3], original(x[:, :3])[0], rtol=1e-4, atol=1e-5)

    evaluate = [
        "evaluate",
        "--tokenizer",
        "out/tokenizer",
        "--data",
        str(bands),
        "--protocol",
        "square32",
        "--workers",
        "0",
    ]
    codec = [
        "--linear-codec",
        "out/data/train",
        "--data",
        "out/data/validation",
        "--rivals",
        "linear_codec,bicubic,webp",
    ]
    assert main([*evaluate, *codec, "--metric", "ssim", "--readiness", "--out", "report"]) == 0
    report = json.loads(Path("report/metrics.json").read_text())
    assert report["channels"] == {"rgb": 3, "nir": 1, "swir": 2}
    assert 0 < metric_values("report")["ssim"] <= 1  # that of the group rgb, in 8 bits
    assert {"latent_spectrum", "equivariance_error", "posterior_collapse"} <= metric_values("report").keys()
    assert "at least 2 samples" in report["left_out"]["ifd_efflite0"]
    assert set(report["rivals"]) == {"linear_codec", "bicubic"}
    assert "psnr_nir" in report["rivals"]["linear_codec"]["metrics"]
    assert "not the channels rgb 3, nir 1, swir 2" in report["left_out"]["webp"]
    assert "already exists" in error_message(*evaluate, "--out", "report")
    message = error_message("evaluate", "--tokenizer", source, *evaluate[3:], "--out", "x")
    assert "has the channels rgb 3, but" in message
    fit = [
        "fit",
        "-c",
        "finetune/decoder.yaml",
        "-c",
        "{model: {losses: {perceptual: null}, weights: {perceptual: null}}}",
    ]
    fit += ["--model.tokenizer.source", source, "--data.train", bands, "--data.validation", bands, *SMALL]
    message = error_message(*fit)
    assert "The data have the channels rgb 3, nir 1, swir 2, but the tokenizer has rgb 3: set channels" in message
    message = error_message(*fit, "--model.tokenizer.channels", "{rgb: 3, nir: 1, swir: 2}")
    assert "does not read the channels nir, swir, and it is frozen" in message
    assert "does not train the layer" in error_message(*command[:-1], "y", "--train", "decoder")


def test_16_bit_grayscale_of_photos_with_colors_is_refused_where_colors_are_needed(
    tmp_path, monkeypatch, error_message
):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    from PIL import Image
    from skimage import data

    source = write("sd", tmp_path / "vae")
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("camera", "coins", "moon"):
        values = getattr(data, name)()[:64, :64].astype(np.uint16) * 257 + 3  # not a multiple: 16 bits matter
        Image.fromarray(values).save(folder / f"{name}.png")
    (folder / "channels.yaml").write_text("channels: {gray: 1}")
    x = open_source(str(folder), any_channels=True)[0]
    expected = torch.from_numpy(np.asarray(data.camera()[:64, :64], dtype=np.float64) * 257 + 3) / 65535 * 2 - 1
    torch.testing.assert_close(x[0].double(), expected.clamp(-1, 1), rtol=0, atol=1e-7)
    assert to_pixels(x) is x

    command = ["finetune", source, "--data", folder, "--protocol", "square32", "--out"]
    colors = [
        "--",
        *SMALL,
        "--model.losses.perceptual",
        "PerceptualLoss",
        "--model.losses.perceptual.network",
        "efflite0",
    ]
    message = error_message(*command, "a", *colors, "--model.weights.perceptual", "0.1")
    assert "The loss 'perceptual' needs red, green and blue, but the channels of the tokenizer are gray 1" in message
    assert main([*map(str, command), "b", "--", *SMALL, "--trainer.max_steps", "2"]) == 0
    assert metric_values("b/after").keys() == {"psnr", "psnr_gray", "ssim_gray"}
    assert "comparison" in Path("b/comparison.html").read_text().lower()
    evaluate = ["evaluate", "--tokenizer", "b/tokenizer", "--data", folder, "--protocol", "square32", "--out", "r"]
    assert "ssim needs red, green and blue" in error_message(*evaluate, "--metric", "ssim")


def test_clips_with_bands_are_trained_and_compared(tmp_path, monkeypatch, error_message):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    source = write("wan21", tmp_path / "vae")
    folder = tmp_path / "clips"
    folder.mkdir()
    videos = open_source("clips:validation")
    for index in range(len(videos)):
        frames = torch.stack([*islice(read_frames(videos[index].video, start=videos[index].start), 9)])  # (T, 3, H, W)
        bands = torch.cat([frames, 255 - frames[:, :1]], dim=1)[..., :64, :64]
        np.save(folder / f"{index}.npy", bands.numpy())
    (folder / "channels.yaml").write_text("channels: {rgb: 3, thermal: 1}\nclips: true\n")
    command = ["finetune", source, "--data", folder, "--out", "out"]
    assert "describes clips: pass --frames" in error_message(*command)
    clips = [*command, "--frames", "5", "--protocol", "clip5x32"]
    assert "leave out @" in error_message(*clips[:-1], "clip5x32@24", "--out", "x", "--", *SMALL)
    assert main([*map(str, clips), "--", *SMALL, "--data.repeats", "4"]) == 0
    assert metric_values("out/after").keys() == {"psnr", "psnr_rgb", "psnr_thermal", "ssim_rgb", "ssim_thermal"}
    assert metric_values("out/after")["psnr_thermal"] > metric_values("out/before")["psnr_thermal"]
    assert Path("out/after/examples.mp4").is_file()
    assert "psnr_thermal" in Path("out/comparison.html").read_text()
    (folder / "channels.yaml").write_text("channels: {rgb: 3, thermal: 1}\n")
    assert "describes images: leave out --frames" in error_message(*clips, "--out", "y")
