"""Two processes with plain ddp train as one with both batches, and stop together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "two_ranks.py"


def run(devices, out, start=0, *flags):
    out.mkdir()
    command = [sys.executable, str(SCRIPT), str(devices), str(out), str(start), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """A step before the game and one in it; more would let the quantizer's signs amplify the rounding of the sums."""
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
