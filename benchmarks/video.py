"""Video tokenizers against diffusers' classes with the same weights: time and peak memory of encode and decode, as ratios.

    python benchmarks/video.py                    # Wan2.1 at base width 32: 17 and 65 frames of 128 x 128
    python benchmarks/video.py --model ltx        # LTX-Video 0.9.5 at a quarter of its widths
    python benchmarks/video.py --device cuda

Time: medians over rounds in one process, the rivals by turns. Memory: what one encode and one decode add at their peak to a
process that holds the model and its input; each in a process of its own on a CPU (Linux), and torch's own count on CUDA.
Before anything is measured, both must give the same latents and pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from smalti.tokenizers.importers import from_published
from smalti.types import Latents

MIB = 2**20
SIZE = 128
SIDES = ("smalti", "diffusers")
Call = Callable[[Tensor], Tensor]


def wan() -> torch.nn.Module:
    """The Wan2.1 autoencoder of diffusers at base width 32."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=32)


def ltx() -> torch.nn.Module:
    """The LTX-Video 0.9.5 autoencoder of diffusers at a quarter of its widths, without its last denoising step."""
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo(
        block_out_channels=(32, 64, 128, 256, 512),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        decoder_block_out_channels=(64, 128, 256),
        layers_per_block=(4, 6, 6, 2, 2),
        decoder_layers_per_block=(5, 5, 5, 5),
        spatio_temporal_scaling=(True, True, True, True),
        decoder_spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(False, False, False, False),
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True, True, True),
        upsample_factor=(2, 2, 2),
        timestep_conditioning=False,
        encoder_causal=True,
        decoder_causal=False,
    )


MODELS = {"wan": wan, "ltx": ltx}


def calls(model: str, side: str, device: str, chunk: int | None) -> tuple[Call, Call]:
    """(encode, decode) of a side: pixels to the means, and back."""
    torch.manual_seed(0)
    rival = MODELS[model]().eval()
    if side == "diffusers":
        rival.to(device)
        return lambda x: rival.encode(x).latent_dist.mean, lambda z: rival.decode(z).sample
    config = {**rival.config, "_class_name": type(rival).__name__}
    ours = from_published("diffusers", config, rival.state_dict()).to(device)

    def decode(z: Tensor) -> Tensor:
        t, h, w = ours.encoder.stride
        grid = tuple(z.shape[2:])
        frames, height, width = 1 + (grid[0] - 1) * t, grid[1] * h, grid[2] * w
        latents = Latents.from_grids((z,), size=(height, width), frames=frames)
        return ours.decode(latents, chunk=chunk)

    return lambda x: ours.encode(x, chunk).to_grids()[0], decode


def clip(frames: int, device: str) -> Tensor:
    """(1, 3, frames, 128, 128) of noise in [-1, 1]."""
    return (torch.rand(1, 3, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)


def agree(model: str, device: str, chunk: int | None) -> tuple[float, float]:
    """Greatest difference of latents and of pixels, as a share of the largest magnitude."""
    x = clip(17, device)
    (encode, decode), (theirs_encode, theirs_decode) = (calls(model, side, device, chunk) for side in SIDES)
    z = theirs_encode(x)
    pairs = ((encode(x), z), (decode(z).clamp(-1, 1), theirs_decode(z).clamp(-1, 1)))
    errors = [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs]
    if max(errors) > 1e-4:
        raise SystemExit(f"The two sides differ by {max(errors):.1e}: there is nothing to compare.")
    return errors[0], errors[1]


def once(call: Call, x: Tensor) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call(x)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times(model: str, frames: int, device: str, rounds: int, chunk: int | None) -> dict[str, dict[str, float]]:
    """Median seconds by step and side, by turns, after a round that does not count."""
    both = {side: calls(model, side, device, chunk) for side in SIDES}
    x = clip(frames, device)
    z = both["diffusers"][0](x)
    taken: dict[str, dict[str, list[float]]] = {step: {side: [] for side in SIDES} for step in ("encode", "decode")}
    for _ in range(rounds + 1):
        for place, (step, given) in enumerate((("encode", x), ("decode", z))):
            for side in SIDES:
                taken[step][side].append(once(both[side][place], given))
    return {step: {side: statistics.median(s[1:]) for side, s in sides.items()} for step, sides in taken.items()}


def memory(model: str, side: str, frames: int, device: str, chunk: int | None) -> dict[str, float]:
    """Peak extra MiB of one encode and of one decode."""
    if device == "cuda":
        return memory_here(model, side, frames, device, chunk)
    # Without this malloc keeps freed blocks, and the peak of one step would hide that of the next.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    request = json.dumps([model, side, frames, device, chunk])
    done = subprocess.run(
        [sys.executable, __file__, "--measure", request], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@torch.inference_mode()
def memory_here(model: str, side: str, frames: int, device: str, chunk: int | None) -> dict[str, float]:
    """`memory`, of this process."""
    encode, decode = calls(model, side, device, chunk)
    decode(encode(clip(9, device)))  # warm, so that what is made once does not count
    given = clip(frames, device)
    peaks: dict[str, float] = {}
    for step, call in (("encode", encode), ("decode", decode)):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            given = call(given)
            peaks[step] = (torch.cuda.max_memory_allocated() - before) / MIB
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
            before = _status("VmHWM")
            given = call(given)
            peaks[step] = (_status("VmHWM") - before) / 1024
    return peaks


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise KeyError(key)


def main() -> None:
    """Measure, and print a table of markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="wan")
    parser.add_argument("--frames", type=int, nargs="+", default=[17, 65])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--chunk", type=int, default=None, help="frames at a time on our side; the default if absent")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(memory_here(*json.loads(options.measure))))
        return
    with torch.inference_mode():
        errors = agree(options.model, options.device, options.chunk)
        print(f"{options.model}, {SIZE} x {SIZE}, {options.threads} threads, torch {torch.__version__}")
        print(f"greatest difference: latents {errors[0]:.1e}, pixels {errors[1]:.1e}\n")
        print("| frames | step | smalti s | diffusers s | time | smalti MiB | diffusers MiB | memory |")
        print("|---|---|---|---|---|---|---|---|")
        for frames in options.frames:
            seconds = times(options.model, frames, options.device, options.rounds, options.chunk)
            peaks = {side: memory(options.model, side, frames, options.device, options.chunk) for side in SIDES}
            for step, taken in seconds.items():
                ours, theirs = (taken[side] for side in SIDES)
                mine, rival = (peaks[side][step] for side in SIDES)
                print(
                    f"| {frames} | {step} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {mine:.0f} | {rival:.0f} | "
                    f"{mine / rival:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
