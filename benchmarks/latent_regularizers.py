"""Ablation of what makes latents easier to model: the quickstart with a KL bottleneck, plain and with each regularizer.

    python benchmarks/latent_regularizers.py --steps 300     # four runs, minutes each on one core

All runs see the same crops in the same order, from random weights. Measures the held-out pictures at 64 x 64 by PSNR and by
the metrics of `smalti evaluate --readiness`, and prints a Markdown table. No generator is trained: the table shows whether
each method does what it claims and what it costs, and not that a generator becomes better.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.optim import Optimizer

from short_training import _Run
from smalti.cli.recipes import load_recipes
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.efflite0_frechet import EffLite0Network
from smalti.eval.metrics import PSNR, readiness_metrics
from smalti.types import Batch

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "LatentEquivariance": {"latent_augmentations": {"equivariance": {"class_path": "LatentEquivariance"}}},
    "LatentDenoising": {"latent_augmentations": {"denoising": {"class_path": "LatentDenoising"}}},
    "LatentAlignment (efflite0)": {
        "losses": {"alignment": {"class_path": "LatentAlignment", "init_args": {"network": "efflite0"}}},
        "weights": {"alignment": 0.1},
    },
}
COLUMNS = ("psnr", "ifd_efflite0", "latent_spectrum", "equivariance_error", "effective_channels", "posterior_collapse")


def make_recipe(variant: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return the recipe of the quickstart with a KL bottleneck and a variant of `VARIANTS`."""
    recipe = load_recipes("quickstart.yaml")
    model = recipe["model"]
    model["tokenizer"]["init_args"]["bottleneck"] = {
        "class_path": "KL",
        "init_args": {"dim": channels, "initial_std": 0.1},
    }
    model["weights"] |= {"kl": 1e-4} | variant.get("weights", {})
    model |= {name: value for name, value in variant.items() if name != "weights"}
    recipe["start"] = {"method": "random"}
    return recipe


def measure(run: _Run) -> dict[str, float]:
    """Return the columns of the table for the averaged weights of a run."""
    batches = [Batch(x.cpu(), [f"{i}-{j}" for j in range(len(x))]) for i, x in enumerate(run.validation)]
    evaluation = evaluate(run.averaged(), batches, [PSNR(), *readiness_metrics(EffLite0Network())], num_examples=0)
    return {name: result.value for name, result in evaluation.metrics.items()}


def train(recipe: dict[str, Any], steps: int) -> _Run:
    """Train a variant. Losses of latents are scaled by their weight alone, without their adaptive factor."""

    def build(groups: list[dict[str, Any]]) -> Optimizer:
        return torch.optim.Adam(groups, lr=1e-3, betas=(0.9, 0.99))

    run = _Run(recipe, build, seed=0, device="cpu")
    for _ in range(steps):
        run.step(next(run.batches))
    return run


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps per run (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=8, help="latent channels (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="only this row; may be repeated")
    options = parser.parse_args()
    print(f"| regularizer | cost in PSNR, dB | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    plain: float | None = None
    for name, variant in VARIANTS.items():
        if options.only and name not in options.only:
            continue
        run = train(make_recipe(variant, options.channels), options.steps)
        row = measure(run)
        run.close()
        plain = row["psnr"] if name == "none" else plain
        cells = [
            name,
            "" if plain is None else f"{plain - row['psnr']:.2f}",
            *(f"{row[column]:.4g}" for column in COLUMNS),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
