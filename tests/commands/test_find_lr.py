"""`smalti find-lr`: finds the learning rates that learn, suggests one as an option, and writes nothing."""

import re
import sys

import pytest

from smalti.__main__ import main


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Return the options of a recipe that learns in a few steps, in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    (tmp_path / "tiny.yaml").write_text(
        "base: quickstart.yaml\nstart: {method: random}\n"
        "trainer: {accelerator: cpu}\n"
        "model:\n"
        "  tokenizer: {init_args: {stride: 4, channels: 8, multipliers: [1]}}\n"
        "  optimizer: {class_path: Adam, init_args: {lr: 3.0e-3}}\n"
        "data: {size: 16, batch_size: 4, workers: 0}\n"
    )
    return ["-c", "tiny.yaml"]


def test_it_prints_a_table_and_a_suggestion_and_writes_nothing(recipe, capsys, tmp_path):
    assert main(["find-lr", *recipe, "--steps", "20", "--rates", "1e-9,3e-3,1e30"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert re.match(r"learning rate 1e-09: [\d.]+ dB, \d:\d\d:\d\d left", lines[0])
    table = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert "gray" in table["1e-09"]
    assert table["0.003"].endswith("recipe, suggested")
    assert "#" in table["0.003"]
    assert "diverged" in table["1e+30"]
    assert lines[-1] == "Suggestion: --model.optimizer.lr 0.003"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_if_nothing_learns_it_says_so(recipe, error_message):
    assert "No learning rate has learned anything: try" in error_message(
        "find-lr", *recipe, "--steps", "4", "--rates", "1e-9"
    )


def test_muon_has_two_learning_rates(recipe, capsys):
    muon = ["--model.optimizer", "Muon", "--model.optimizer.lr", "0.01", "--model.optimizer.adam_lr", "0.002"]
    assert main(["find-lr", *recipe, *muon, "--steps", "12", "--rates", "0.02"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Suggestion: --model.optimizer.lr 0.02 --model.optimizer.adam_lr 0.004"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "3"], "--steps is '3'"),
        (["--rates", "1e-3,fast"], "--rates is '1e-3,fast'"),
        (["--rates", "0,1e-3"], "give positive learning rates"),
        (["--rate", "1e-3"], "--rate"),
    ],
)
def test_wrong_options_are_one_sentence(recipe, error_message, options, message):
    assert message in error_message("find-lr", *recipe, *options)
