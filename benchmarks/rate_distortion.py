"""PSNR against bits per pixel: the networks of LTX-Video with continuous latents, FSQ and GQ, at equal training time.

    python benchmarks/rate_distortion.py --minutes 5    # six runs; two at a time, with one thread each, on 2 cores

All variants are `ltx/quickstart.yaml` with another bottleneck. They see the same clips and photos in the same order, for as
many steps as their time allows. The decoder denoises only if the latents are continuous, as in the full-size recipes.
Measures the held-out clips (17 frames of 64 x 64), prints a Markdown table, and writes `reconstructions.png`: frames of the
original, and below them the reconstructions of each variant.

The bits of a discrete tokenizer are the bits of its ids. The bits of continuous latents are counted in two ways: 16 bits
per number, as the means are stored, and the KL divergence, the number of bits needed to transmit one sample of the
posterior (arXiv 1810.00440). The second row has the PSNR of such a sample.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from smalti import Tokenizer, load
from smalti.cli.recipes import load_recipes
from smalti.data import Clips, VideoEvaluationTransform, evaluation_loader
from smalti.eval.baseline import count_kept_pixels, make_baseline
from smalti.eval.metrics import PSNR
from smalti.pixels import pixels_to_uint8
from smalti.types import Latents, pack
from training_runs import find_checkpoint, fit, read_metrics

RECIPE = "ltx/quickstart.yaml"
FRAMES, SIZE, RATE = 17, 64, 25
PROTOCOL = f"clip{FRAMES}x{SIZE}@{RATE}"


def continuous(dim: int) -> dict[str, Any]:
    """Return the configuration of a KL bottleneck of `dim` channels."""
    return _config("KL", dim=dim, shared_log_variance=True, initial_std=0.05)


def fsq(tokens: int) -> dict[str, Any]:
    """Return the configuration of FSQ with `tokens` tokens of 16 bits per latent position."""
    return _config("FSQ", levels=[16] * 4, tokens_per_position=tokens)


def gq(groups: int) -> dict[str, Any]:
    """Return the configuration of GQ with `groups` tokens of 8 bits per latent position."""
    return _config("GQ", groups=groups, bits=8, codebook_entropy="pooled")


def _config(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


VARIANTS = {
    "continuous_128": continuous(128),
    "fsq_64": fsq(64),
    "gq_128": gq(128),
    "continuous_32": continuous(32),
    "fsq_16": fsq(16),
    "gq_32": gq(32),
}
"""Bottlenecks by name, which ends in the channels or tokens per latent position. The last three use a quarter of the
bits."""


def make_recipe(name: str, minutes: float) -> dict[str, Any]:
    """Return the recipe of the quickstart with the bottleneck of a variant, for a duration instead of a number of steps."""
    recipe = load_recipes(RECIPE)
    trainer, model = recipe["trainer"], recipe["model"]
    trainer |= {"max_steps": -1, "max_time": {"seconds": round(60 * minutes)}, "val_check_interval": 10**6}
    # Averaged weights instead of a learning rate schedule, which would need the number of steps.
    recipe["ema"] = {"decay": 0.99}
    del model["scheduler"]
    model["tokenizer"]["init_args"]["bottleneck"] = VARIANTS[name]
    if not name.startswith("continuous"):
        del recipe["statistics"], model["weights"]["kl"]
    if name.startswith("gq"):
        model["weights"] |= {"token_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}
    return recipe


def load_held_out_clips() -> list[Tensor]:
    """Return the packaged clips for validation, (1, 3, T, H, W) each in [-1, 1]."""
    transform = VideoEvaluationTransform(FRAMES, RATE, resize=SIZE, crop=SIZE)
    return [batch.pixels for batch in evaluation_loader(Clips("validation"), transform, 1, 0)]


@torch.no_grad()
def measure(tokenizer: Tokenizer, clips: list[Tensor]) -> list[dict[str, float | str]]:
    """Return one row of the table per way to count bits, with the keys bits, bits_per_pixel and psnr."""
    encoded = [tokenizer.encode(x) for x in clips]
    psnr = mean_psnr(clips, [reconstruct(tokenizer, latents) for latents in encoded])
    positions = sum(latents.positions for latents in encoded)
    pixels = sum(x[0, 0].numel() for x in clips)
    if tokenizer.discrete:
        bits = tokenizer.quantizer.bits_per_position * positions
        return [{"bits": "ids", "bits_per_pixel": bits / pixels, "psnr": psnr}]
    nats = 0.0
    samples = []
    for x, latents in zip(clips, encoded, strict=True):
        sample, kl = draw_sample(tokenizer, x, latents)
        samples.append(reconstruct(tokenizer, sample))
        nats += kl * latents.positions
    means_bits = 16 * tokenizer.bottleneck.out_dim * positions
    return [
        {"bits": "means, 16 bits per number", "bits_per_pixel": means_bits / pixels, "psnr": psnr},
        {
            "bits": "KL divergence, one sample",
            "bits_per_pixel": nats / math.log(2) / pixels,
            "psnr": mean_psnr(clips, samples),
        },
    ]


def draw_sample(tokenizer: Tokenizer, x: Tensor, latents: Latents) -> tuple[Latents, float]:
    """Return a sample of the posterior instead of its mean, and the KL divergence in nats per latent position."""
    torch.manual_seed(0)
    tokenizer.bottleneck.train()
    code = tokenizer.bottleneck(pack(tokenizer.encoder(x))[0])
    tokenizer.bottleneck.eval()
    return replace(latents, code=code), float(code.losses["kl"])


def reconstruct(tokenizer: Tokenizer, latents: Latents) -> Tensor:
    """Decode to uint8 pixels, with a fixed seed for the noise of the decoder."""
    return pixels_to_uint8(tokenizer.decode(latents, torch.Generator().manual_seed(0)))


def mean_psnr(clips: list[Tensor], reconstructions: list[Tensor]) -> float:
    """Return the PSNR in dB, averaged over frames and clips. Clips are pixels in [-1, 1], reconstructions are uint8."""
    metric = PSNR()
    pairs = zip(clips, reconstructions, strict=True)
    return float(torch.cat([metric.measure(pixels_to_uint8(x), y) for x, y in pairs]).mean())


def print_table(clips: list[Tensor], names: list[str], out: Path) -> None:
    """Measure the trained variants and the baselines and print the Markdown table."""
    print("| variant | steps | counted as bits | bits per pixel | PSNR, dB |\n|---|---|---|---|---|")
    for name in names:
        steps = max(int(row["step"]) for row in read_metrics(out / name)) + 1
        for row in measure(load(find_checkpoint(out / name)).eval(), clips):
            print(f"| {name} | {steps} | {row['bits']} | {row['bits_per_pixel']:.4f} | {row['psnr']:.2f} |", flush=True)
    for stride in ((4, 8, 8), (8, 32, 32)):
        psnr = mean_psnr(clips, [make_baseline(pixels_to_uint8(x), stride) for x in clips])
        kept_bits = 24 * sum(count_kept_pixels(x, stride) for x in clips) / sum(x[0, 0].numel() for x in clips)
        label = f"every {stride[0]}th frame at 1/{stride[1]} of its size"
        print(f"| {label} | | 8 bits per color channel | {kept_bits:.4f} | {psnr:.2f} |")


@torch.no_grad()
def save_frames(clip: Tensor, names: list[str], out: Path) -> None:
    """Write reconstructions.png: five frames of a clip (1, 3, T, H, W), and the reconstructions of each variant below."""
    rows = [pixels_to_uint8(clip)]
    for name in names:
        tokenizer = load(find_checkpoint(out / name)).eval()
        rows.append(reconstruct(tokenizer, tokenizer.encode(clip)))
    columns = [0, 4, 8, 12, 16]
    frames = torch.cat([row[0, :, columns].movedim(1, 0) for row in rows])
    enlarged = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
    save_image(make_grid(enlarged, nrow=len(columns), pad_value=255) / 255, out / "reconstructions.png")


def main() -> None:
    """Train all variants, print the table and write the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="training time per variant (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=2, help="parallel training runs, with one thread each (default: %(default)s)"
    )
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/rate_distortion"), help="output folder (default: %(default)s)"
    )
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = pool.map(
            lambda name: fit(make_recipe(name, options.minutes), options.out / name, threads=1), options.variants
        )
        list(runs)  # raises the exception of a failed run
    print(f"{options.minutes:g} minutes per variant, {options.jobs} at a time, held-out clips, protocol {PROTOCOL}\n")
    clips = load_held_out_clips()
    print_table(clips, options.variants, options.out)
    save_frames(clips[0], options.variants, options.out)


if __name__ == "__main__":
    main()
