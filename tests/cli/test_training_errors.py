"""Mistakes in the settings of a run: one sentence with the nearest valid name."""

import sys

import pytest

from smalti.__main__ import main


@pytest.fixture
def refuse(capsys, monkeypatch, tmp_path):
    """Return a function that runs `smalti fit` with the quickstart recipe and options, and returns the only output."""
    monkeypatch.setattr(sys, "argv", ["smalti"])
    monkeypatch.chdir(tmp_path)  # a mistake that is not noticed starts a run

    def run(*options):
        assert main(["fit", "-c", "quickstart.yaml", *options]) == 2
        captured = capsys.readouterr()
        assert not captured.out
        (line,) = captured.err.splitlines()
        return line.removeprefix("smalti fit: error: ")

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--trainer.max_stepz 3", "There is no option --trainer.max_stepz (did you mean --trainer.max_steps?)."),
        ("--ema.decai 0.9", "There is no option --ema.decai (did you mean --ema.decay?)."),
        ("--ema.decay", "--ema.decay has no value"),
        ("--ema.decay fast", "ema.decay is 'fast': give a number."),
        ("--trainer.max_steps 3.5", "trainer.max_steps is '3.5': give an integer."),
        ("--trainer.precision bf17", "trainer.precision is 'bf17' (did you mean bf16?). Valid values are"),
        ("--data.sise 4", "data has no argument 'sise' (did you mean size?). ImageData has train, validation, size,"),
        ("--model.optimizer Adan", "model.optimizer: there is no class 'Adan' (did you mean Adam?)."),
        ("--model.optimizer.learnin_rate 1", "model.optimizer has no argument 'learnin_rate'. Muon has lr, adam_lr"),
        ("--model.tokenizer.strid 8", "model.tokenizer has no argument 'strid' (did you mean stride?). wetok has"),
        (
            "--model.tokenizer.bottleneck FSX",
            "model.tokenizer.bottleneck: there is no class 'FSX' (did you mean FSQ?).",
        ),
        (
            "--model.tokenizer.bottleneck.help",
            "--model.tokenizer.bottleneck.help has no value: add the name of a class",
        ),
        ("--model.losses.p PerceptualLos", "model.losses.p: there is no class 'PerceptualLos' (did you mean Percept"),
        ("--model.gan.strat 5", "model.gan has no argument 'strat' (did you mean start?). GANLoss has discriminator"),
        ("-c {modell:{weights:{l1:1}}}", "There is no section 'modell' in a recipe (did you mean model?)."),
        ("-c {model:{wieghts:{l1:1}}}", "There is no setting 'model.wieghts' (did you mean model.weights?)."),
        ("-c {trainer:{max_stepz:3}}", "There is no setting 'trainer.max_stepz' (did you mean trainer.max_steps?)."),
        ("-c {data:{init_args:{sise:3}}}", "data has no argument 'sise' (did you mean size?)."),
    ],
)
def test_a_mistake_is_explained_in_one_sentence(refuse, options, message):
    words = [word.replace(":", ": ") if word.startswith("{") else word for word in options.split()]
    assert message in refuse(*words)
