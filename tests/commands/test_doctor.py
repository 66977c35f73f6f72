"""`smalti doctor`: says what is wrong with a checkpoint or an exported tokenizer, by table and exit code."""

import sys
from pathlib import Path

import pytest
import torch

from smalti.__main__ import main
from smalti.trainers.health import CODEC_FILE, checks

RECIPE = Path(__file__).parent / "tiny.yaml"
SIZE = ["--data.size", "64"]  # 16 x 16 positions per photo


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a short run."""
    folder = tmp_path_factory.mktemp("runs")
    argv, sys.argv = sys.argv, ["smalti"]
    try:
        options = ["--trainer.logger.save_dir", str(folder), "--health.samples", "8"]
        assert main(["fit", "-c", str(RECIPE), *SIZE, *options]) == 0
    finally:
        sys.argv = argv
    return folder / "version_0"


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def kill(checkpoint, target):
    """Write a copy of a checkpoint whose encoder returns the same for every pixel."""
    state = torch.load(checkpoint, weights_only=True)
    for name, weight in state["state_dict"].items():
        if name.startswith("tokenizer.encoder"):
            weight.zero_()
    state["global_step"] = 1000
    torch.save(state, target)
    return target


def test_a_young_run_is_not_judged(run, capsys):
    assert main(["doctor", str(run / "checkpoints/last.ckpt")]) == 0
    out = capsys.readouterr().out
    assert "step 3, on 4 samples" in out
    assert all(
        name in out for name in ("stuck at gray", "baselines", "dead bits", "discriminator", "balance of losses")
    )
    assert "there is no GAN loss" in out


def test_a_dead_code_is_found_and_the_exit_code_is_1(run, capsys, tmp_path):
    dead = kill(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "dead.ckpt")
    assert main(["doctor", str(dead)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "Problem (dead bits): 2 of 2 channels are constant over 1024 positions, all of token 0; try a third" in out
    assert "Problem (stuck at gray): The reconstructions are no better than one color:" in out
    assert "dB against linear codec" in out


def test_an_export_needs_data_and_says_what_it_cannot_check(run, capsys, tmp_path, error_message):
    folder = tmp_path / "export"
    assert main(["export", str(run / "checkpoints/last.ckpt"), "--out", str(folder)]) == 0
    assert "is not in the folder of a run, so that its data is unknown: pass --data" in error_message("doctor", folder)
    data = ["--data", "photos:validation", "--size", "64"]
    assert main(["doctor", str(folder), *data]) in (0, 1)
    out = " ".join(capsys.readouterr().out.split())
    assert "There is no linear codec to compare with" in out
    assert "The mean color is that of the samples" in out
    assert "only the checkpoint of a run knows its losses" in out
    assert main(["doctor", str(folder), *data, "--samples", "2", "--linear-codec", str(run / CODEC_FILE)]) in (0, 1)
    out = " ".join(capsys.readouterr().out.split())
    assert "on 2 samples of photos:validation" in out
    assert "dB against linear codec" in out


def test_a_run_without_codec_and_record_is_examined_all_the_same(run, capsys, tmp_path, monkeypatch):
    """As a run of an earlier version."""
    import shutil

    old = shutil.copytree(run, tmp_path / "old")
    (old / CODEC_FILE).unlink()
    state = torch.load(old / "checkpoints/last.ckpt", weights_only=True)
    del state["callbacks"]["Health"]
    torch.save(state, old / "checkpoints/old.ckpt")
    monkeypatch.setattr(checks, "GRAY_MARGIN", -100)
    assert main(["doctor", str(old / "checkpoints/old.ckpt")]) == 0
    out = capsys.readouterr().out
    assert "The run has no linear codec: it was fitted to the training data now." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.ckpt"], "There is no tokenizer at nothing.ckpt"),
        (["RUN", "--data", "nowhere"], "nowhere"),
        (["RUN", "--linear-codec", "nothing.safetensors"], "nothing.safetensors is not a linear codec"),
        (["RUN", "--samples", "0"], "'0' is not a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(run, error_message, arguments, message):
    checkpoint = str(run / "checkpoints/last.ckpt")
    assert message in error_message("doctor", *(checkpoint if word == "RUN" else word for word in arguments))
