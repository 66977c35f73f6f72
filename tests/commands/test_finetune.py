"""`smalti finetune` and its recipes train the parts that they name, and write everything that the user compares."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import smalti
from smalti.__main__ import main
from smalti.cli.held_out import split_folder
from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import provenance
from smalti.trainers import TokenizerTraining

write = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))["write"]
SMALL = [
    "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu",
    "--trainer.precision", "32-true", "--data.size", "32", "--data.batch_size", "2", "--data.workers", "0",
    "--data.repeats", "4", "--model.optimizer.lr", "1e-3", "--health.samples", "0", "--visualization.samples", "0",
]  # fmt: skip
PIXELS_ONLY = ["-c", "{model: {losses: {perceptual: null}, weights: {perceptual: null}}}"]


@pytest.fixture
def photos(tmp_path):
    from skimage import data

    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("coffee", "cat", "sub/chelsea"):
        image = Image.fromarray(getattr(data, Path(name).name)()).resize((64, 48))
        image.save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


@pytest.fixture
def source(tmp_path):
    return write("sd", tmp_path / "vae")


def changed_parts(before, after):
    """Return the names of the weights that training has changed."""
    weights = after.state_dict()
    return {name for name, weight in before.state_dict().items() if not torch.equal(weight, weights[name])}


def test_it_writes_a_tokenizer_two_reports_one_page_and_a_folder_for_diffusers(source, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smalti"])
    out = tmp_path / "out"
    options = ["--data", str(photos), "--train", "last-block", "--protocol", "square32", "--out", str(out)]
    own = [*SMALL, "--model.losses.perceptual.network", "efflite0"]
    assert main(["finetune", source, *options, "--", *own]) == 0
    before, after = smalti.load(source), smalti.load(out / "tokenizer")
    changed = changed_parts(before, after)
    assert changed
    assert all(name.startswith(("decoder.network.up_blocks.3", "decoder.network.conv_")) for name in changed)
    assert not any("conv_in" in name for name in changed)
    page = (out / "comparison.html").read_text()
    assert "before" in page
    assert "after" in page
    assert json.loads((out / "before" / "metrics.json").read_text())
    held_out = [p.name for p in (out / "data" / "validation").rglob("*.png")]
    trained = [p.name for p in (out / "data" / "train").rglob("*.png")]
    assert len(held_out) == 1
    assert len(trained) == 2
    assert not set(held_out) & set(trained)
    back = smalti.load(f"diffusers:{out / 'diffusers'}")
    assert not changed_parts(after, back)


@pytest.mark.slow
def test_two_processes_train_and_one_compares(source, photos, tmp_path):
    """One file is held out: the second process has no validation images."""
    options = ["--data", str(photos), "--protocol", "square32", "--out", str(tmp_path / "out")]
    ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "1"]
    command = [sys.executable, "-m", "smalti", "finetune", source, *options, "--", *PIXELS_ONLY, *SMALL, *ranks]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "comparison.html").is_file()
    assert changed_parts(smalti.load(source), smalti.load(tmp_path / "out" / "tokenizer"))


@pytest.mark.parametrize(
    ("recipe", "prefixes"),
    [
        ("all", ("encoder.", "decoder.")),
        ("decoder", ("decoder.",)),
        ("last_block", ("decoder.network.up_blocks.3", "decoder.network.conv_norm_out", "decoder.network.conv_out")),
        ("lora", ("decoder.",)),
    ],
)
def test_a_recipe_trains_what_it_names(recipe, prefixes, source, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    data = ["--data.train", str(photos), "--data.validation", str(photos)]
    command = ["fit", "-c", f"finetune/{recipe}.yaml", *PIXELS_ONLY, "--model.tokenizer.source", source, *data, *SMALL]
    assert main(command) == 0
    changed = changed_parts(smalti.load(source), smalti.load(tmp_path / "runs/version_0/checkpoints/last.ckpt"))
    assert changed
    assert all(name.startswith(prefixes) for name in changed)
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in changed), prefix


def test_the_decoder_waits_for_the_discriminator(source, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    data = ["--data.train", str(photos), "--data.validation", str(photos)]
    gan = ["--model.gan.discriminator", "PatchDiscriminator", "--model.gan.discriminator.channels", "4"]
    command = ["fit", "-c", "finetune/gan.yaml", *PIXELS_ONLY, "--model.tokenizer.source", source, *data, *SMALL, *gan]
    assert main(command) == 0
    assert not changed_parts(smalti.load(source), smalti.load(tmp_path / "runs/version_0/checkpoints/last.ckpt"))


@pytest.mark.parametrize("recipe", ["flux_gq", "distill"])
def test_a_continuous_autoencoder_becomes_discrete_or_gets_a_small_decoder(
    recipe, source, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    data = ["--data.train", str(photos), "--data.validation", str(photos)]
    options = ["--model.tokenizer.source", source, *data, *SMALL]
    if recipe == "distill":
        options += ["--model.losses.distillation.teacher", source, "--model.tokenizer.decoder.channels", "32"]
    assert main(["fit", "-c", f"finetune/{recipe}.yaml", *PIXELS_ONLY, *options]) == 0
    trained = smalti.load(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    assert trained.discrete == (recipe == "flux_gq")
    x = smalti.load_image(photos / "cat.png")
    if trained.discrete:
        assert torch.equal(trained.detokenize(trained.tokenize(x)), trained(x)[0])
    else:
        assert not changed_parts(smalti.load(source).encoder, trained.encoder)


@pytest.mark.parametrize(
    ("recipe", "model", "options"),
    [
        ("distill_wan", "wan21", ["channels", "4", "multipliers", "[1,1,1]", "strides", "[[2,2],[2,2]]"]),
        ("distill_ltx", "ltx", ["channels", "4", "patch", "2", "blocks", "[[res_x,{}],[compress_all,{}],[res_x,{}]]"]),
    ],
)
def test_a_small_video_decoder_learns_from_a_large_one(recipe, model, options, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    source = write(model, tmp_path / "vae")
    pairs = zip(["in_dim", *options[::2]], ["4", *options[1::2]], strict=True)
    small = [word for name, value in pairs for word in (f"--model.tokenizer.decoder.{name}", value)]
    data = ["--data.train", "clips:train", "--data.validation", "clips:validation", "--data.frames", "5"]
    data += ["--data.rate", "null", "--trainer.limit_val_batches", "1"]
    teacher = ["--model.tokenizer.source", source, "--model.losses.distillation.teacher", source]
    features = ["--model.losses.perceptual.network", "efflite0"]
    steps = ["--trainer.max_steps", "30", "--trainer.val_check_interval", "15", "--model.optimizer.lr", "1e-2"]
    command = ["fit", "-c", f"finetune/{recipe}.yaml", *teacher, *small, *data, *features, *SMALL, *steps]
    assert main(command) == 0
    before, after = smalti.load(source), smalti.load(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    assert not changed_parts(before.encoder, after.encoder)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((tmp_path / "runs").rglob("events*")).parent)).Reload()
    first, last = (event.value for event in events.Scalars("val/distillation"))
    assert last < first
    assert len(events.Scalars("val/perceptual")) == 2


def test_all_commands_accept_diffusers(source, photos, tmp_path, capsys):
    assert main(["reconstruct", str(photos / "cat.png"), "--out", str(tmp_path / "r.png"), "--tokenizer", source]) == 0
    assert Image.open(tmp_path / "r.png").size == (64, 48)
    fsq = write("vidtok_fsq", tmp_path / "vidtok")
    assert (
        main(["tokenize", str(photos / "cat.png"), "--out", str(tmp_path / "t.safetensors"), "--tokenizer", fsq]) == 0
    )
    back = ["detokenize", str(tmp_path / "t.safetensors"), "--out", str(tmp_path / "d.png"), "--tokenizer", fsq]
    assert main(back) == 0
    assert Image.open(tmp_path / "d.png").size == (64, 48)
    assert provenance(source)["class"] == "AutoencoderKL"


def test_wrong_input_is_one_sentence(error_message, source, photos, tmp_path, monkeypatch):
    out = ["--out", tmp_path / "out"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "run it without torchrun" in error_message("finetune", source, "--data", photos, *out)
    monkeypatch.delenv("WORLD_SIZE")
    assert "There is no folder" in error_message(
        "finetune", "diffusers:nowhere", "--data", photos, "--validation", photos, *out, "--train", "last-block"
    )
    assert "cannot be split" not in error_message("finetune", source, "--data", "photos:train", "--out", photos)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "already exists" in error_message("finetune", source, "--data", photos, "--out", tmp_path / "full")
    (tmp_path / "one").mkdir()
    with pytest.raises(SmaltiError, match="too few to hold one out"):
        split_folder(tmp_path / "one", tmp_path / "split", videos=False)


def test_the_sizes_of_a_run_alternate(source, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    seen = []
    step = TokenizerTraining.training_step

    def record(self, batch, *arguments):
        seen.append(batch.pixels.shape[-1])
        return step(self, batch, *arguments)

    monkeypatch.setattr(TokenizerTraining, "training_step", record)
    small = [
        word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if not pair[0].startswith("--data") for word in pair
    ]
    data = ["--data.train", str(photos), "--data.validation", str(photos), "--data.workers", "0"]
    data += [
        "--data.sizes",
        "[16,32]",
        "--data.batch_sizes",
        "[2,1]",
        "--trainer.max_steps",
        "8",
        "--data.repeats",
        "4",
    ]
    command = ["fit", "-c", "finetune/sizes.yaml", *PIXELS_ONLY, "--model.tokenizer.source", source, *small, *data]
    assert main(command) == 0
    assert set(seen[-8:]) == {16, 32}
    assert all(
        name.startswith("decoder.")
        for name in changed_parts(smalti.load(source), smalti.load(tmp_path / "runs/version_0/checkpoints/last.ckpt"))
    )


def test_a_video_autoencoder_becomes_discrete_on_clips(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smalti"])
    monkeypatch.chdir(tmp_path)
    source = write("wan21", tmp_path / "vae")
    data = ["--data.train", "clips:train", "--data.validation", "clips:validation", "--data.frames", "5"]
    data += ["--data.rate", "null", "--trainer.limit_val_batches", "1", "--start.samples", "4"]
    command = ["fit", "-c", "finetune/wan_fsq.yaml", *PIXELS_ONLY, "--model.tokenizer.source", source, *data, *SMALL]
    assert main(command) == 0
    trained = smalti.load(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    assert trained.quantizer.bits_per_position == pytest.approx(math.log2(64000))
    clip = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    tokens = trained.tokenize(clip)
    assert tokens.grids == ((2, 8, 8),)
    assert torch.equal(trained.detokenize(tokens), trained(clip)[0])
    changed = changed_parts(smalti.load(source), trained)
    assert {name.partition(".")[0] for name in changed} == {"encoder", "decoder"}
