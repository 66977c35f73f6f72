"""Two processes with plain ddp train as one with both batches, and stop together."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def run(devices, out, start=0, *flags):
    return start_script("two_ranks.py", out, str(devices), str(out), str(start), *flags)


def start_script(name, out, *arguments):
    out.mkdir()
    command = [sys.executable, str(HERE / name), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """A step before the game and one in it; more would let the quantizer's signs amplify the rounding of the sums.

    The two recompute their blocks in the backward pass, and the one does not.
    """
    start = 1
    results = []
    for devices in (1, 2):
        done = run(devices, tmp_path / f"{devices}", start)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((tmp_path / f"{devices}" / "result.json").read_text()))
    one, two = results
    assert one["global_step"] == two["global_step"] == start + 1
    for name, weight in one["weights"].items():
        assert two["weights"][name] == pytest.approx(weight, rel=1e-3, abs=1e-5), name
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)  # four photos, once each


@pytest.mark.slow
def test_all_stop_where_one_diverges(tmp_path):
    done = run(2, tmp_path / "run", 1, "poison")
    assert done.returncode != 0
    assert "not finite: l1" in done.stderr
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.slow
def test_images_and_clips_train_on_two_processes(tmp_path):
    """What no micro-batch of a step used, on any process, stays where it was, weight decay and all; ranks stay equal."""
    done = start_script("two_ranks_video.py", tmp_path / "run", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / "run" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["paths"] == two["paths"]
    for ours, theirs in zip(one["steps"], two["steps"], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def moved(part):
        names = [name for name in one["steps"][0] if name.startswith(part) and not name.endswith(("_u", "_v"))]
        return [
            {not torch.equal(before[name], after[name]) for name in names}
            for before, after in itertools.pairwise(one["steps"])
        ]

    yes, no = {True}, {False}
    # Of a step's two batches: images, an image and a clip, a clip and an image, images.
    for part in ("encoder.layers.1.time", "decoder.layers.2.time"):
        assert moved(f"tokenizer.{part}") == [no, yes, yes, no], part
    # Frames look back on latent 0 with weights that start at zero: its convolution has a gradient from the second clip on.
    to_latent = moved("tokenizer.decoder.first_to_latent")
    assert (to_latent[0], to_latent[2], to_latent[3]) == (no, yes, no)
    assert moved("tokenizer.encoder.conv_in") == [yes] * 4
    discrete = ["discrete" in one["paths"][2 * step : 2 * step + 2] for step in range(4)]
    assert not all(discrete)
    assert moved("tokenizer.bottleneck.discrete") == [{step} for step in discrete]
    assert moved("gan.discriminator.body") == [no, no, yes, yes]
    assert {path.suffix for path in (tmp_path / "run" / "reconstructions").iterdir()} == {".png", ".mp4"}
