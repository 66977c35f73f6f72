"""Faults at random steps of real runs on two processes, and runs that resume after them."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

RECIPE = f"""
base: {Path(__file__).parent / "tiny.yaml"}
trainer: {{max_steps: 10, val_check_interval: 4, devices: 2, strategy: ddp}}
checkpoint: {{every_n_train_steps: 1}}
model:
  weights: {{adversarial: 0.1, lecam: 0.05}}
  gan: {{start: 2, discriminator: {{class_path: PatchDiscriminator, init_args: {{channels: 8, layers: 1}}}}}}
data: {{train: faults.FaultyPhotos, batch_size: 1}}
"""


@pytest.mark.slow
def test_a_run_that_is_killed_and_terminated_equals_one_that_is_not(tmp_path):
    """SIGKILL, SIGTERM and an error of the data, each on one of two processes, and each at a random step.

    Both processes end each time, with a message that names the rank. The run that is killed resumes exactly, in its own
    folder. The error of the data ends the other run, which is saved at the same step. The process that DDP launches gets
    both recipes, also when the run is resumed.
    """
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "variant.yaml").write_text("model: {weights: {mse: 1.0}}")

    def fit(fault, *options):
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"OMP_NUM_THREADS": "1", "FAULT": fault, "PYTHONPATH": os.pathsep.join(paths)}
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "smalti", "fit", "--import", "faults", *options],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done, f"{fault} {time.monotonic() - start}\n{done.stdout}\n{done.stderr}"

    killed, terminated, failed = sorted(random.sample(range(2, 9), 3))
    recipe = ["-c", "recipe.yaml", "-c", "variant.yaml", "--trainer.logger.name"]
    done, output = fit(f"data:0:{failed + 1}", *recipe, "without_kill")
    assert done.returncode == 2, output
    assert "error: Rank 0: The disk with the photos is gone." in done.stderr, output
    assert f"The run stopped at step {failed + 1}." in done.stdout, output
    done, output = fit(f"SIGKILL:1:{killed}", *recipe, "killed")
    assert done.returncode == 1, output
    assert "error: Rank 1 was killed by SIGKILL." in done.stderr, output
    resume = ["--ckpt_path", "runs/killed/last-good", "--trainer.max_steps", str(failed + 1)]
    done, output = fit(f"SIGTERM:1:{terminated}", *resume)
    assert done.returncode == 143, output
    assert f"Resuming from runs/killed/version_0/checkpoints/step={killed}.ckpt" in done.stdout, output
    assert "To resume it: smalti fit --import faults --ckpt_path" in done.stdout, output
    done, output = fit("none:0:0", *resume)
    assert done.returncode == 0, output
    assert output.count("The run is saved") == 1, output  # not once per rank
    assert [path.name for path in sorted((tmp_path / "runs").glob("*/*"))] == ["version_0"] * 2
    one, two = (
        torch.load(tmp_path / "runs" / name / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("without_kill", "killed")
    )
    assert one["global_step"] == two["global_step"] == failed + 1
    for key in ("state_dict", "current_model_state"):
        assert one[key].keys() == two[key].keys()
        assert all(torch.equal(one[key][name], two[key][name]) for name in one[key]), key
    for first, second in zip(*(run["optimizer_states"][0]["state"].values() for run in (one, two)), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
