"""Ablation of the weight of the KL loss: the continuous branch of the OneVAE of the quickstart, with four weights.

    python benchmarks/kl_weight.py --steps 200     # four runs; two at a time, with one thread each, on 2 cores

The first weight is that of latent diffusion (arXiv 2112.10752), 1e-6, converted to losses that are means: w / (3 s^2 t) for
an encoder of spatial stride s and temporal stride t, see `smalti.tokenizers.bottlenecks.KL`.

All runs see the same clips and photos in the same order. Measures the held-out clips (17 frames of 64 x 64) and prints a
Markdown table:

- PSNR of reconstructions from the means and from a sample of the posterior
- the KL divergence in nats per latent position, and its part of the loss (weighted)
- the standard deviations of the means over all positions, and of the posterior: root mean squares over the channels
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from rate_distortion import draw_sample, load_held_out_clips, mean_psnr, reconstruct
from smalti import load
from smalti.cli.recipes import load_recipes
from training_runs import find_checkpoint, fit

RECIPE = "onevae/quickstart.yaml"
LATENT_DIFFUSION = 1e-6 / (3 * 8**2 * 4)
WEIGHTS = (LATENT_DIFFUSION, 1e-6, 1e-5, 1e-4)


def make_recipe(weight: float, steps: int) -> dict[str, Any]:
    """Return the recipe of the quickstart for its continuous branch, with a weight of the KL loss."""
    recipe = load_recipes(RECIPE)
    recipe["trainer"] |= {"max_steps": steps, "val_check_interval": steps}
    model = recipe["model"]
    model["scheduler"]["init_args"]["warmup_steps"] = steps // 10
    tokenizer = model["tokenizer"]["init_args"]
    tokenizer["bottleneck"] = tokenizer["bottleneck"]["init_args"]["continuous"]
    model["weights"]["kl"] = weight
    return recipe


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """Return the columns of the table for the run in a folder."""
    tokenizer, clips = load(find_checkpoint(folder)).eval(), load_held_out_clips()
    encoded = [tokenizer.encode(x) for x in clips]
    drawn = [draw_sample(tokenizer, x, latents) for x, latents in zip(clips, encoded, strict=True)]
    samples, nats = zip(*drawn, strict=True)
    means = torch.cat([latents.code.z.flatten(0, 1) for latents in encoded])
    noise = torch.cat([sample.code.z.flatten(0, 1) for sample in samples]) - means
    return {
        "psnr": mean_psnr(clips, [reconstruct(tokenizer, latents) for latents in encoded]),
        "psnr_of_sample": mean_psnr(clips, [reconstruct(tokenizer, latents) for latents in samples]),
        "nats": sum(nats) / len(nats),
        "std_of_means": float(means.var(0).mean().sqrt()),
        "std_of_posterior": float(noise.square().mean().sqrt()),
    }


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="training steps per run (default: %(default)s)")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="weights of the KL loss")
    parser.add_argument(
        "--jobs", type=int, default=2, help="parallel training runs, with one thread each (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/kl_weight"), help="output folder (default: %(default)s)")
    options = parser.parse_args()
    folders = {weight: options.out / f"{weight:.1e}" for weight in options.weights}
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda w: fit(make_recipe(w, options.steps), folders[w], threads=1), folders))
    print(
        "| weight | PSNR of the means, dB | of a sample, dB | nats per position | weighted | std of means | of posterior |"
    )
    print("|---|---|---|---|---|---|---|")
    for weight, folder in folders.items():
        row = measure(folder)
        print(
            f"| {weight:.1e} | {row['psnr']:.2f} | {row['psnr_of_sample']:.2f} | {row['nats']:.1f} "
            f"| {weight * row['nats']:.1e} | {row['std_of_means']:.2f} | {row['std_of_posterior']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
