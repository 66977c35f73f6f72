"""PSNR against bits a pixel: LTX's networks with continuous latents, FSQ and GQ, each trained for the same time.

    python benchmarks/rates.py --minutes 5 --out runs/rates       # six runs; two at a time, a thread each, on 2 cores

All are `ltx/quickstart.yaml` with another bottleneck, and see the same clips and photos in the same order, as far as their
time reaches. The decoder denoises only where the latent is continuous, as in the recipes of full size. Measured on the
held-out clips, 17 frames of 64 x 64: a table of markdown, and `rates.png`, frames of each variant below the original's.

Bits of a discrete tokenizer are those of its ids. A continuous latent has two honest counts: 16 a number, as it is stored
and handed on, and the nats of its KL divergence as bits, which a sample takes to send (arXiv 1810.00440); the PSNR beside
the second is that of a sample.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision.utils import make_grid, save_image

from runs import checkpoint, fit, metrics
from smalti import load
from smalti.cli.recipe_files import find_recipe
from smalti.data import Clips, VideoEvaluationTransform, evaluation_loader
from smalti.eval.baseline import baseline, compare, kept_pixels
from smalti.pixels import pixels_to_uint8
from smalti.types import pack

RECIPE = "ltx/quickstart.yaml"
FRAMES, SIZE, RATE = 17, 64, 25
PROTOCOL = f"clip{FRAMES}x{SIZE}@{RATE}"
BOTTLENECKS = "smalti.tokenizers.bottlenecks"


def bottleneck(name: str, **arguments: Any) -> dict[str, Any]:
    """A part of a recipe."""
    return {"class_path": f"{BOTTLENECKS}.{name}", "init_args": arguments}


def continuous(dim: int) -> tuple[dict[str, Any], int, int]:
    """(bottleneck, channels before, channels behind)."""
    return bottleneck("KL", dim=dim, shared_log_variance=True, initial_std=0.05), dim + 1, dim


def fsq(tokens: int) -> tuple[dict[str, Any], int, int]:
    """(bottleneck, channels before, channels behind), 16 bits a token."""
    return bottleneck("FSQ", levels=[16] * 4, tokens_per_position=tokens), 4 * tokens, 4 * tokens


def gq(groups: int) -> tuple[dict[str, Any], int, int]:
    """(bottleneck, channels before, channels behind), 8 bits a token."""
    return bottleneck("GQ", groups=groups, bits=8, codebook_entropy="pooled"), 8 * groups, 8 * groups


VARIANTS = {
    "continuous_128": continuous(128),
    "fsq_64": fsq(64),
    "gq_128": gq(128),
    "continuous_32": continuous(32),
    "fsq_16": fsq(16),
    "gq_32": gq(32),
}
"""By the channels of a position, or its tokens: 1:192 three times, and three times a quarter of that."""


def recipe(name: str, minutes: float) -> dict[str, Any]:
    """The quickstart with another bottleneck, for a time instead of a number of steps."""
    settings = yaml.safe_load(find_recipe(RECIPE).read_text())
    part, before, behind = VARIANTS[name]
    trainer, model = settings["trainer"], settings["model"]
    trainer |= {"max_steps": -1, "max_time": {"seconds": round(60 * minutes)}, "val_check_interval": 10**6}
    settings["ema"] = {"decay": 0.99}  # instead of a schedule, which would have to know the number of steps
    del model["scheduler"]
    tokenizer = model["tokenizer"]["init_args"]
    tokenizer["bottleneck"] = part
    tokenizer["encoder"]["init_args"]["out_dim"] = before
    tokenizer["decoder"]["init_args"]["in_dim"] = behind
    if not name.startswith("continuous"):
        del settings["statistics"], model["weights"]["kl"]
        for option in ("timestep", "noise", "training_noise"):
            del tokenizer["decoder"]["init_args"][option]
    if name.startswith("gq"):
        model["weights"] |= {"token_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}
    return settings


@torch.no_grad()
def measure(file: Path, clips: list[torch.Tensor]) -> tuple[list[dict[str, float | str]], torch.Tensor]:
    """Rows of the table for a checkpoint, and its reconstruction (3, T, H, W), uint8, of the first of the clips."""
    tokenizer = load(file).eval()
    psnr = {"": [], "sample": []}
    nats = positions = 0.0
    shown = None
    for x in clips:
        latents = tokenizer.encode(x)
        restored = tokenizer.decode(latents, torch.Generator().manual_seed(0))
        psnr[""].append(compare(pixels_to_uint8(x), pixels_to_uint8(restored))["psnr"])
        shown = pixels_to_uint8(restored)[0] if shown is None else shown
        positions += latents.positions
        if not tokenizer.discrete:
            torch.manual_seed(0)
            tokenizer.bottleneck.train()
            code = tokenizer.bottleneck(pack(tokenizer.encoder(x))[0])
            tokenizer.bottleneck.eval()
            nats += float(code.losses["kl"]) * latents.positions
            restored = tokenizer.decode(replace(latents, code=code), torch.Generator().manual_seed(0))
            psnr["sample"].append(compare(pixels_to_uint8(x), pixels_to_uint8(restored))["psnr"])
    pixels = sum(x[0, 0].numel() for x in clips)
    decibels = {key: float(torch.cat(values).mean()) for key, values in psnr.items() if values}
    assert shown is not None
    if tokenizer.discrete:
        bits = tokenizer.quantizer.bits_per_position * positions / pixels
        return [{"bits": "ids", "bpp": bits, "psnr": decibels[""]}], shown
    return [
        {
            "bits": "means, 16 a number",
            "bpp": 16 * tokenizer.bottleneck.out_dim * positions / pixels,
            "psnr": decibels[""],
        },
        {"bits": "KL divergence, a sample", "bpp": nats / math.log(2) / pixels, "psnr": decibels["sample"]},
    ], shown


def held_out() -> list[torch.Tensor]:
    """The packaged clips of validation, (1, 3, T, H, W) each in [-1, 1]."""
    transform = VideoEvaluationTransform(FRAMES, RATE, resize=SIZE, crop=SIZE)
    return [batch.pixels for batch in evaluation_loader(Clips("validation"), transform, 1, 0)]


def main() -> None:
    """Train all, print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, a variant")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/rates"))
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        train = pool.map(
            lambda name: fit(recipe(name, options.minutes), options.out / name, threads=1), options.variants
        )
        list(train)  # raises what a run raised
    clips = held_out()
    originals = [pixels_to_uint8(x) for x in clips]
    strips = [originals[0][0]]
    print(f"{options.minutes:g} minutes each, {options.jobs} at a time, held-out {PROTOCOL}\n")
    print("| variant | steps | bits counted | bits a pixel | PSNR, dB |\n|---|---|---|---|---|")
    for name in options.variants:
        rows, shown = measure(checkpoint(options.out / name), clips)
        strips.append(shown)
        steps = max(int(row["step"]) for row in metrics(options.out / name)) + 1
        for row in rows:
            print(f"| {name} | {steps} | {row['bits']} | {row['bpp']:.4f} | {row['psnr']:.2f} |", flush=True)
    for stride in ((4, 8, 8), (8, 32, 32)):
        restored = [baseline(x, stride) for x in originals]
        kept = 24 * sum(kept_pixels(x, stride) for x in originals) / sum(x[0, 0].numel() for x in originals)
        mean = float(torch.cat([compare(x, y)["psnr"] for x, y in zip(originals, restored, strict=True)]).mean())
        label = f"every {stride[0]}th frame at 1/{stride[1]} of its size"
        print(f"| {label} | | 8 bits a colour | {kept:.4f} | {mean:.2f} |")
    columns = [0, 4, 8, 12, 16]
    frames = (
        torch.cat([strip[:, columns].movedim(1, 0) for strip in strips]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    save_image(make_grid(frames, nrow=len(columns), pad_value=255) / 255, options.out / "rates.png")


if __name__ == "__main__":
    main()
