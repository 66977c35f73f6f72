"""The LTX-Video recipes train and export with the real commands."""

import sys
from pathlib import Path

import pytest
import yaml

import smalti
from smalti.__main__ import main


@pytest.mark.parametrize(
    "name", ["v095", "fsq", *(pytest.param(n, marks=pytest.mark.slow) for n in ("v090", "v091", "gq"))]
)
def test_recipes_train_and_export(name, tmp_path, monkeypatch, capsys):
    """Train each recipe with narrow networks and small clips. All losses of the paper have a weight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    small = {
        "trainer": {
            "precision": 32, "log_every_n_steps": 1, "limit_val_batches": 0, "max_steps": 1,
            "enable_model_summary": False, "enable_progress_bar": False,
        },
        "model": {
            "tokenizer": {"encoder_channels": 8, "decoder_channels": 8},
            "gan": {"start": 0, "discriminator": {"channels": 8}},
            "losses": {"perceptual": {"network": "efflite0"}},
        },
        "data": {"frames": 9, "size": 32, "batch_size": 1, "workers": 0},
    }  # fmt: skip
    Path("small.yaml").write_text(yaml.safe_dump(small))
    assert main(["fit", "-c", f"ltx/{name}.yaml", "-c", "data/clips.yaml", "-c", "small.yaml"]) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Path("runs/version_0")
    events = EventAccumulator(str(run))
    events.Reload()
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("train/")}
    weights = yaml.safe_load((run / "config.yaml").read_text())["model"]["weights"]
    assert {"mse", "wavelet", "perceptual", "adversarial"} | (
        {"kl"} if name.startswith("v") else set()
    ) <= weights.keys()
    total = sum(weight * last[f"train/{loss}"] for loss, weight in {"discriminator": 1.0, **weights}.items())
    assert last["train/loss"] == pytest.approx(total, rel=1e-4)
    checkpoint = run / "checkpoints" / "last.ckpt"
    loaded = smalti.load(checkpoint)
    assert loaded.decoder.statistics.mean.any() == name.startswith("v")
    command = ["export", str(checkpoint), "--format", "diffusers", "-o", "diffusers"]
    if name.startswith("v"):
        assert main(command) == 0
    else:
        assert main(command) == 2
        assert "KL" in capsys.readouterr().err
