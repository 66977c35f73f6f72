"""Faults at random steps of real runs on two processes, and runs that resume after them."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

RECIPE = """
trainer: {max_steps: 10, val_check_interval: 4, limit_val_batches: 1, accelerator: cpu, devices: 2, strategy: ddp}
ema: {decay: 0.5}
checkpoint: {every_n_train_steps: 1}
model:
  tokenizer:
    class_path: wetok
    init_args:
      bottleneck: {class_path: FSQ, init_args: {levels: [5, 5]}}
      stride: 4
      channels: 8
      multipliers: [1]
      blocks: 1
      groups: null
  weights: {l1: 1.0, adversarial: 0.1, lecam: 0.05}
  gan: {start: 2, discriminator: {class_path: PatchDiscriminator, init_args: {channels: 8, layers: 1}}}
  optimizer: {class_path: Adam, init_args: {lr: 1.0e-3}}
data:
  class_path: ImageData
  init_args: {train: faults.FaultyPhotos, validation: photos:validation, size: 16, batch_size: 1, workers: 0}
"""


@pytest.mark.slow
def test_a_run_that_is_killed_terminated_and_cut_off_from_its_data_equals_one_without_faults(tmp_path):
    """SIGKILL, SIGTERM and an error of the data, each on one of two processes, and each at a random step.

    Both processes end each time, with a message that names the rank, and the run resumes exactly, in its own folder. The
    process that DDP launches gets both recipes, also when the run is resumed.
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
    done, output = fit("none:0:0", *recipe, "whole")
    assert done.returncode == 0, output
    assert output.count("The run is saved") == 1, output  # not once per rank
    assert "WARNING" not in output.upper()
    done, output = fit(f"SIGKILL:1:{killed}", *recipe, "faulty")
    assert done.returncode == 1, output
    assert "error: Rank 1 was killed by SIGKILL." in done.stderr, output
    resume = ["--ckpt_path", "runs/faulty/last-good"]
    done, output = fit(f"SIGTERM:1:{terminated}", *resume)
    assert done.returncode == 143, output
    assert f"Resuming from runs/faulty/version_0/checkpoints/step={killed}.ckpt" in done.stdout, output
    assert "To resume it: smalti fit --import faults --ckpt_path" in done.stdout, output
    done, output = fit(f"data:0:{failed + 1}", *resume)
    assert done.returncode == 2, output
    assert "error: Rank 0: The disk with the photos is gone." in done.stderr, output
    assert f"The run stopped at step {failed + 1}." in done.stdout, output
    done, output = fit("none:0:0", *resume)
    assert done.returncode == 0, output
    whole, faulty = (
        torch.load(tmp_path / "runs" / name / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "faulty")
    )
    assert [path.name for path in sorted((tmp_path / "runs").glob("*/*"))] == ["version_0"] * 2
    assert whole["global_step"] == faulty["global_step"] == 10
    for key in ("state_dict", "current_model_state"):
        assert whole[key].keys() == faulty[key].keys()
        assert all(torch.equal(whole[key][name], faulty[key][name]) for name in whole[key]), key
    for one, other in zip(*(run["optimizer_states"][0]["state"].values() for run in (whole, faulty)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
