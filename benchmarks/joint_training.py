"""Ablation of joint training: the OneVAE of the quickstart, trained in five ways for the same number of steps.

    python benchmarks/joint_training.py --steps 300     # five runs, about five minutes each on 2 cores

The runs are:

- continuous: KL alone, randomly initialized
- discrete: FSQ alone, randomly initialized
- joint: both, one branch per step, randomly initialized
- discrete from continuous, joint from continuous: initialized with the weights of the first run

All runs see the same clips in the same order. Prints a Markdown table with the PSNR in dB of each branch on the held-out
clips, as `smalti fit` validates: averaged over frames that are rounded to 8 bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smalti.cli.recipes import load_recipes
from training_runs import find_checkpoint, fit, read_metrics

RECIPE = "onevae/quickstart.yaml"

RUNS: list[tuple[str, str | None, str | None]] = [
    ("continuous", "continuous", None),
    ("discrete", "discrete", None),
    ("joint", None, None),
    ("discrete from continuous", "discrete", "continuous"),
    ("joint from continuous", None, "continuous"),
]
"""(name, branch to train or None for both, name of the run to start from or None)"""


def make_recipe(branch: str | None, steps: int) -> dict[str, Any]:
    """Return the recipe of the quickstart for one of its branches, or for both (None), and a number of steps."""
    recipe = load_recipes(RECIPE)
    recipe["trainer"] |= {"max_steps": steps, "val_check_interval": steps}
    model = recipe["model"]
    model["scheduler"]["init_args"]["warmup_steps"] = steps // 10
    tokenizer = model["tokenizer"]["init_args"]
    if branch is not None:
        tokenizer["bottleneck"] = tokenizer["bottleneck"]["init_args"][branch]
    if branch == "discrete":
        del model["weights"]["kl"]
    return recipe


def train(name: str, branch: str | None, start: str | None, steps: int, out: Path) -> dict[str, float]:
    """Train in a separate process and return the PSNR of the last validation, by the branch that it measures."""
    folder = out / name.replace(" ", "_")
    options = ()
    if start is not None:
        options = ("--warm_start.path", str(find_checkpoint(out / start)), "--warm_start.transfer", "true")
    fit(make_recipe(branch, steps), folder, options)
    psnr = {
        key: float(row[key]) for row in read_metrics(folder) for key in row if key.startswith("val/psnr") and row[key]
    }
    if branch is not None:
        return {branch: psnr["val/psnr"]}
    return {name: psnr[f"val/psnr_{name}"] for name in ("continuous", "discrete")}


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps per run (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/joint_training"), help="output folder (default: %(default)s)"
    )
    options = parser.parse_args()
    print("| run | steps | continuous branch, dB | discrete branch, dB |\n|---|---|---|---|")
    for name, branch, start in RUNS:
        psnr = train(name, branch, start, options.steps, options.out)
        cells = [f"{psnr[key]:.2f}" if key in psnr else "" for key in ("continuous", "discrete")]
        total_steps = options.steps * (2 if start else 1)
        print(f"| {name} | {total_steps} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
