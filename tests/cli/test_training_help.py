"""The help of training commands: short, our own options first, with examples that work."""

import re
import shlex
import sys

import pytest

from smalti.__main__ import main


@pytest.fixture
def show(capsys, monkeypatch):
    """Return a function that runs a command that prints something and stops, and returns what it printed."""
    monkeypatch.setattr(sys, "argv", ["smalti"])

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert not stopped.value.code
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", ["fit", "check", "validate", "test"])
def test_the_help_is_short_and_lists_our_options_first(show, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = show(command, "--help")
    lines = text.splitlines()
    assert len(lines) < 180
    assert max(map(len, lines)) < 124
    assert "torch.nn" not in text
    sections = [line.partition(":")[0] for line in lines if re.match(r"\w+: ", line)][1:]
    expected = "model data ema checkpoint visualization health statistics start warm_start watch trainer"
    assert sections == expected.split()
    assert "name of an installed" in text
    assert "--ckpt_path" in text[: text.index("model: ")]


def examples(text):
    return [line.strip() for line in text.splitlines() if line.startswith("  smalti ")]


def test_the_examples_of_the_help_are_valid(show, tmp_path, monkeypatch):
    commands = [line for name in ("fit", "check", "validate", "test") for line in examples(show(name, "--help"))]
    assert len(commands) >= 10
    settings = show("fit", "-c", "quickstart.yaml", "--print_config")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/version_0/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/version_0/checkpoints/last.ckpt").touch()
    (tmp_path / "runs/version_0/config.yaml").write_text(settings)
    for recipe in ("my-recipe.yaml", "their-recipe.yaml"):
        (tmp_path / recipe).write_text("{base: quickstart.yaml}")
    monkeypatch.setenv("SMALTI_IMPORT", "")  # --import sets it
    monkeypatch.setattr("smalti.extensions.import_module", lambda name: None)
    for command in commands:
        assert len(command) < 120
        words = shlex.split(command)[1:]
        if words[-1] == "last-good":
            continue  # the checkpoint must exist
        stops = words[-1] == "--print_config" or any(word.endswith(".help") for word in words)
        assert show(*words, *(() if stops else ("--print_config",)))


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--model.gan.help", ("GANLoss", "ReconstructionGANLoss")),
        ("--model.losses.help", ("PerceptualLoss", "WaveletLoss")),
        ("--model.tokenizer.help", ("wetok", "uniwetok", "onevae", "ltx", "Tokenizer")),
        ("--model.optimizer.help", ("Adam ", "AdamW", "Muon  ")),
        ("--model.scheduler.help", ("WarmupSchedule", "CosineAnnealingLR")),
        ("--data.help", ("ImageData", "VideoData", "MixedData")),
        ("--trainer.logger.help", ("TensorBoardLogger", "WandbLogger")),
    ],
)
def test_help_of_an_option_lists_its_classes(show, option, shown):
    text = show("fit", option)
    assert all(f"  {name}" in text for name in shown)
    assert "Module " not in text
    assert f"smalti fit {option} NAME" in text


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("--model.gan.help GANLoss", ("--model.gan.start", "PatchDiscriminator, TemporalDiscriminator")),
        ("--model.losses.help PerceptualLoss", ("--model.losses.network",)),
        ("--model.tokenizer.help wetok", ("--model.tokenizer.stride", "BSQ, GQ, FSQ", "SimVQ")),
        ("--model.tokenizer.help Tokenizer", ("--model.tokenizer.encoder",)),
        ("--model.tokenizer.bottleneck.help FSQ", ("levels",)),
        ("--model.optimizer.help AdamW", ("--model.optimizer.weight_decay",)),
        ("--model.optimizer.help Muon", ("--model.optimizer.adam_lr",)),
        ("--data.help ImageData", ("--data.batch_size",)),
    ],
)
def test_help_of_a_class_shows_its_options(show, options, shown):
    text = " ".join(show("fit", *options.split()).split())
    assert all(word in text for word in shown)
    assert "Show the help for" not in text
