"""Does a discrete tokenizer learn faster from a continuous autoencoder than from random weights, at equal steps?

    python benchmarks/continuous_to_discrete.py
    python benchmarks/continuous_to_discrete.py --quantizer GQ

Trains a small continuous autoencoder (KL, WeTok's networks) on the packaged photos. Then trains a discrete tokenizer (18
bits per position) with the same networks from random weights, from the autoencoder with random projections around the
quantizer, and from the autoencoder with projections that are fitted to its latents. Each has the same data, seed,
optimizer, number of steps, and ramp of the quantizer from continuous to discrete. Prints PSNR in dB on crops of held-out
photos.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from smalti.data import ImageData
from smalti.pixels import to_pixels
from smalti.tokenizers import Tokenizer, pretrained, wetok
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL, Bottleneck, Projected, Quantizer
from smalti.tokenizers.checkpoints import save
from smalti.trainers.validation_metrics import sample_metrics

CHANNELS = 8
QUANTIZERS: dict[str, Callable[[], Quantizer]] = {
    "FSQ": lambda: FSQ([8, 8, 8, 8, 8, 8]),
    "GQ": lambda: GQ(3, 6, gradient="clipped"),
}
RATE = 1e-3
WARMUP = 20
HARDNESS_SHARE = 0.25
"""Share of the steps in which the decoder sees more and more of the quantization."""


def build(bottleneck: Bottleneck, width: int) -> Tokenizer:
    """Return WeTok's networks with stride 4, without norms, with random weights."""
    torch.manual_seed(0)
    return wetok(bottleneck, stride=4, channels=width, multipliers=[1, 2, 4], blocks=1, groups=None)


def batches(data: ImageData, steps: int) -> list[Tensor]:
    """Return the same training batches for every run."""
    found: list[Tensor] = []
    while len(found) < steps:
        for batch in data.train_dataloader():
            found.append(batch.pixels)
            if len(found) == steps:
                break
    return found


@torch.no_grad()
def measure(tokenizer: Tokenizer, validation: list[Tensor]) -> float:
    """Return the mean PSNR in dB."""
    training = tokenizer.training
    tokenizer.eval()
    values = torch.cat([sample_metrics(tokenizer(to_pixels(x))[0], to_pixels(x))["psnr"] for x in validation])
    tokenizer.train(training)
    return float(values.mean())


def train(
    tokenizer: Tokenizer, data: list[Tensor], validation: list[Tensor], *, points: int
) -> list[tuple[int, float]]:
    """Train, and return pairs of a step and PSNR. The hardness of a quantizer rises from 0 to 1.

    Args:
        tokenizer: trained in place.
        data: one batch per step.
        validation: held-out batches.
        points: number of measurements after the first one.
    """
    torch.manual_seed(0)
    tokenizer.requires_grad_().train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=RATE, betas=(0.9, 0.99))
    curve = [(0, measure(tokenizer, validation))]
    for step, pixels in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        if isinstance(tokenizer.bottleneck, Projected):
            tokenizer.bottleneck.quantizer.hardness = min(1.0, step / max(1, HARDNESS_SHARE * len(data)))
        x = to_pixels(pixels)
        reconstruction, latents = tokenizer(x)
        loss = (reconstruction - x).abs().mean() + (reconstruction - x).square().mean()
        loss = loss + 1e-6 * sum(latents.code.losses.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % max(1, len(data) // points) == 0:
            curve.append((step + 1, measure(tokenizer, validation)))
    return curve


@torch.no_grad()
def fit_projections(tokenizer: Tokenizer, data: list[Tensor]) -> None:
    """Fit the projections to the latents of training batches, as `start.method: latents` does."""
    tokenizer.eval()
    latents = torch.cat([tokenizer.encoder(to_pixels(x).unsqueeze(2))[0].movedim(1, -1).flatten(0, -2) for x in data])
    assert isinstance(tokenizer.bottleneck, Projected)
    tokenizer.bottleneck.start_from_latents(latents)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-steps", type=int, default=400, help="steps of the continuous autoencoder")
    parser.add_argument("--steps", type=int, default=100, help="steps of each discrete tokenizer")
    parser.add_argument("--quantizer", choices=list(QUANTIZERS), default="FSQ", help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=16, help="channels at full resolution")
    options = parser.parse_args()
    quantizer = QUANTIZERS[options.quantizer]
    torch.manual_seed(0)
    data = ImageData(train="photos:train", validation="photos:validation", size=64, batch_size=8, workers=0, repeats=64)
    data.setup("fit")
    validation = [batch.pixels for batch in data.val_dataloader()]
    source = build(KL(CHANNELS, initial_std=0.1), options.width)
    curve = train(source, batches(data, options.source_steps), validation, points=2)
    print(f"continuous autoencoder, {options.source_steps} steps: {curve[-1][1]:.2f} dB", flush=True)
    training = batches(data, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        path = save(source, Path(folder) / "continuous")
        starts: dict[str, Tokenizer] = {}
        for name in ("random weights", "continuous, random projections", "continuous, fitted projections"):
            if name == "random weights":
                starts[name] = build(Projected(quantizer(), dim=CHANNELS, in_dim=2 * CHANNELS), options.width)
            else:
                torch.manual_seed(0)
                starts[name] = pretrained(str(path), quantizer())
            if name.endswith("fitted projections"):
                fit_projections(starts[name], training[:16])
            curve = train(starts[name], training, validation, points=4)
            print(f"{name}: " + ", ".join(f"step {step} {psnr:.2f} dB" for step, psnr in curve), flush=True)


if __name__ == "__main__":
    main()
