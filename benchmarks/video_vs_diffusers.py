"""Time and peak memory of video tokenizers against the diffusers classes with the same weights: encoding and decoding.

    python benchmarks/video_vs_diffusers.py                    # Wan2.1 at base width 32: 17 and 65 frames of 128 x 128
    python benchmarks/video_vs_diffusers.py --model ltx        # LTX-Video 0.9.5 at a quarter of its widths
    python benchmarks/video_vs_diffusers.py --device cuda

Time is the median over rounds in one process, in which the two libraries alternate. Memory is what one call needs at its
peak, in addition to the model and its input. On a CPU (Linux), each library is measured in its own process. Before
anything is measured, both libraries must return the same latents and pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from measurement import peak_memory, run_in_subprocess, time_call
from smalti.tokenizers.importers import from_published
from smalti.types import Latents

SIZE = 128
"""Height and width of the frames."""

LIBRARIES = ("smalti", "diffusers")
Call = Callable[[Tensor], Tensor]


def wan() -> torch.nn.Module:
    """Return the Wan2.1 autoencoder of diffusers at base width 32, randomly initialized."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=32)


def ltx() -> torch.nn.Module:
    """Return the LTX-Video 0.9.5 autoencoder of diffusers at a quarter of its widths, without its denoising step."""
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


def make_calls(model: str, library: str, device: str, chunk: int | None) -> tuple[Call, Call]:
    """Return (encode, decode) of a library: from pixels to the means of the latents, and from latents to pixels."""
    torch.manual_seed(0)
    reference = MODELS[model]().eval()
    if library == "diffusers":
        reference.to(device)
        return lambda x: reference.encode(x).latent_dist.mean, lambda z: reference.decode(z).sample
    config = {**reference.config, "_class_name": type(reference).__name__}
    tokenizer = from_published("diffusers", config, reference.state_dict()).to(device)

    def decode(z: Tensor) -> Tensor:
        stride, grid = tokenizer.encoder.stride, z.shape[2:]
        frames = 1 + (grid[0] - 1) * stride[0]
        latents = Latents.from_grids((z,), size=(grid[1] * stride[1], grid[2] * stride[2]), frames=frames)
        return tokenizer.decode(latents, chunk=chunk)

    return lambda x: tokenizer.encode(x, chunk).to_grids()[0], decode


def random_clip(frames: int, device: str) -> Tensor:
    """Return noise (1, 3, frames, SIZE, SIZE) in [-1, 1]."""
    return (torch.rand(1, 3, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)


def check_equality(model: str, device: str, chunk: int | None) -> tuple[float, float]:
    """Return the largest difference between the libraries in latents and in pixels, relative to the largest magnitude."""
    x = random_clip(17, device)
    (encode, decode), (reference_encode, reference_decode) = (
        make_calls(model, library, device, chunk) for library in LIBRARIES
    )
    z = reference_encode(x)
    pairs = ((encode(x), z), (decode(z).clamp(-1, 1), reference_decode(z).clamp(-1, 1)))
    errors = [float((result - reference).abs().max() / reference.abs().max()) for result, reference in pairs]
    if max(errors) > 1e-4:
        raise SystemExit(f"The libraries differ by {max(errors):.1e}, so their speed cannot be compared.")
    return errors[0], errors[1]


def measure_times(model: str, frames: int, device: str, rounds: int, chunk: int | None) -> dict[str, dict[str, float]]:
    """Return the median seconds by step ("encode", "decode") and library, after one round of warm-up."""
    calls = {library: make_calls(model, library, device, chunk) for library in LIBRARIES}
    x = random_clip(frames, device)
    inputs = {"encode": x, "decode": calls["diffusers"][0](x)}
    seconds = {step: {library: [] for library in LIBRARIES} for step in inputs}
    for _ in range(rounds + 1):
        for index, (step, value) in enumerate(inputs.items()):
            for library in LIBRARIES:
                call = calls[library][index]
                seconds[step][library].append(time_call(lambda call=call, value=value: call(value), device))
    return {
        step: {library: statistics.median(values[1:]) for library, values in by_library.items()}
        for step, by_library in seconds.items()
    }


def measure_memory(model: str, library: str, frames: int, device: str, chunk: int | None) -> dict[str, float]:
    """Return the peak memory in MiB by step."""
    if device == "cuda":
        return measure_memory_here(model, library, frames, device, chunk)
    return run_in_subprocess(__file__, [model, library, frames, device, chunk])


@torch.inference_mode()
def measure_memory_here(model: str, library: str, frames: int, device: str, chunk: int | None) -> dict[str, float]:
    """Implement `measure_memory` in this process."""
    encode, decode = make_calls(model, library, device, chunk)
    decode(encode(random_clip(9, device)))  # warm-up, so that one-time allocations do not count
    x = random_clip(frames, device)
    results: list[Tensor] = []
    memory = {"encode": peak_memory(lambda: results.append(encode(x)), device)}
    z = results.pop()
    return memory | {"decode": peak_memory(lambda: results.append(decode(z)), device)}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="wan", help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, nargs="+", default=[17, 65], help="lengths of the clips (default: 17 65)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--chunk", type=int, help="frames per chunk in Smalti (default: chosen by the tokenizer)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure_memory_here(*json.loads(options.measure))))
        return
    with torch.inference_mode():
        errors = check_equality(options.model, options.device, options.chunk)
        print(f"{options.model}, {SIZE} x {SIZE}, {options.threads} threads, torch {torch.__version__}")
        print(f"Largest relative difference: latents {errors[0]:.1e}, pixels {errors[1]:.1e}\n")
        print("| frames | step | smalti s | diffusers s | time ratio | smalti MiB | diffusers MiB | memory ratio |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for frames in options.frames:
            seconds = measure_times(options.model, frames, options.device, options.rounds, options.chunk)
            memory = {
                library: measure_memory(options.model, library, frames, options.device, options.chunk)
                for library in LIBRARIES
            }
            for step in seconds:
                times = [seconds[step][library] for library in LIBRARIES]
                mib = [memory[library][step] for library in LIBRARIES]
                print(
                    f"| {frames} | {step} | {times[0]:.2f} | {times[1]:.2f} | {times[0] / times[1]:.2f} | "
                    f"{mib[0]:.0f} | {mib[1]:.0f} | {mib[0] / mib[1]:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
