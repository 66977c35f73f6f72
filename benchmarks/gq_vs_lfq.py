"""Time and peak memory of GQ against vector-quantize-pytorch's LFQ: forward and backward pass with entropy losses.

    python benchmarks/gq_vs_lfq.py                  # about ten minutes; skips LFQ where it does not fit into memory
    python benchmarks/gq_vs_lfq.py --quick          # without LFQ at 18 bits
    python benchmarks/gq_vs_lfq.py --device cuda

Time is the median over rounds in one process, in which the two quantizers alternate. Memory is what one forward and
backward pass needs at its peak, in addition to the memory of a warmed-up process. On a CPU (Linux), each measurement of
memory runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import vector_quantize_pytorch
from torch import Tensor

from measurement import MIB, peak_memory, run_in_subprocess, time_call
from smalti.tokenizers.bottlenecks import GQ

Case = tuple[int, int, int]
"""(groups, bits, tokens)"""

Loss = Callable[[Tensor], Tensor]
"""From latents (1, tokens, groups * bits) to a scalar training loss."""

CASES: list[Case] = [(4, 8, 1024), (4, 8, 4096), (1, 16, 1024), (1, 16, 4096), (1, 18, 1024), (1, 18, 4096)]
GQ_ONLY_CASES: list[Case] = [(1, 18, 16384), (1, 20, 1024), (1, 20, 4096), (1, 22, 1024), (1, 22, 4096)]
MAX_SECONDS_PER_CASE = 60.0
"""Time after which a case starts no further round."""


def gq_loss(groups: int, bits: int) -> Loss:
    """Return the training loss of GQ."""
    quantizer = GQ(groups, bits)

    def loss(h: Tensor) -> Tensor:
        code = quantizer(h)
        losses = code.losses
        entropy = losses["token_entropy"] - losses["codebook_entropy"]
        return code.z.mean() + 0.1 * entropy + 0.25 * losses["commitment"]

    return loss


def lfq_loss(groups: int, bits: int) -> Loss:
    """Return the training loss of LFQ with the same codebook, weights and temperature."""
    quantizer = vector_quantize_pytorch.LFQ(
        dim=groups * bits,
        codebook_size=2**bits,
        num_codebooks=groups,
        entropy_loss_weight=0.1,
        commitment_loss_weight=0.25,
    )

    def loss(h: Tensor) -> Tensor:
        quantizer.to(h.device)
        z, _, auxiliary_loss = quantizer(h)
        return z.mean() + auxiliary_loss

    return loss


QUANTIZERS = {"gq": gq_loss, "lfq": lfq_loss}


def forward_backward(loss: Loss, h: Tensor) -> None:
    """Run one forward and backward pass."""
    h.grad = None
    loss(h).backward()


def measure_times(names: list[str], case: Case, device: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of each quantizer.

    The first round is a warm-up and is discarded, unless it already exceeds the time limit of a case.
    """
    groups, bits, tokens = case
    losses = {name: QUANTIZERS[name](groups, bits) for name in names}
    h = random_latents(groups * bits, tokens, device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for _ in range(rounds + 1):
        for name, loss in losses.items():
            seconds[name].append(time_call(lambda loss=loss: forward_backward(loss, h), device))
        if time.perf_counter() - start > MAX_SECONDS_PER_CASE:
            break
    return {name: statistics.median(values[1:] or values) for name, values in seconds.items()}


def measure_memory(name: str, case: Case, device: str) -> float:
    """Return the peak memory in MiB of one forward and backward pass."""
    if device == "cuda":
        return measure_memory_here(name, case, device)
    return run_in_subprocess(__file__, [name, case])


def measure_memory_here(name: str, case: Case, device: str) -> float:
    """Implement `measure_memory` in this process."""
    groups, bits, tokens = case
    loss = QUANTIZERS[name](groups, bits)
    forward_backward(loss, random_latents(groups * bits, 2, device))  # warm-up
    h = random_latents(groups * bits, tokens, device)
    return peak_memory(lambda: forward_backward(loss, h), device)


def estimate_lfq_bytes(case: Case) -> int:
    """Estimate the peak memory of LFQ: about seven tables of tokens x codebook size (measured at 16 bits)."""
    groups, bits, tokens = case
    return 7 * 4 * groups * tokens * 2**bits


def free_bytes(device: str) -> int:
    """Return the free memory of the device."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def random_latents(channels: int, tokens: int, device: str) -> Tensor:
    """Return (1, tokens, channels), scaled so that at temperature 0.01 some bits are certain and others are not."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(1, tokens, channels, generator=generator) * 0.01).to(device).requires_grad_()


def measure_row(case: Case, device: str, rounds: int) -> str:
    """Measure both quantizers, or GQ alone if LFQ does not fit into memory, and return a row of the Markdown table."""
    groups, bits, tokens = case
    row = f"| {groups} x {bits} | {tokens} |"
    if estimate_lfq_bytes(case) > 0.8 * free_bytes(device):
        milliseconds = measure_times(["gq"], case, device, rounds)["gq"] * 1e3
        mib = measure_memory("gq", case, device)
        estimate = estimate_lfq_bytes(case) / MIB
        return f"{row} {milliseconds:.1f} | does not fit | | {mib:.1f} | about {estimate:.0f}, not measured | |"
    seconds = measure_times(["gq", "lfq"], case, device, rounds)
    memory = {name: measure_memory(name, case, device) for name in QUANTIZERS}
    return (
        f"{row} {seconds['gq'] * 1e3:.1f} | {seconds['lfq'] * 1e3:.1f} | {seconds['lfq'] / seconds['gq']:.0f} | "
        f"{memory['gq']:.1f} | {memory['lfq']:.1f} | {memory['lfq'] / memory['gq']:.0f} |"
    )


def print_tables(device: str, rounds: int, *, quick: bool) -> None:
    """Measure all cases and print the two Markdown tables."""
    print("| groups x bits | tokens | GQ ms | LFQ ms | LFQ / GQ time | GQ MiB | LFQ MiB | LFQ / GQ memory |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in CASES:
        if quick and case[1] == 18:
            continue
        print(f"Measuring {case}", file=sys.stderr)
        print(measure_row(case, device, rounds), flush=True)
    print("\n| GQ alone, groups x bits | tokens | ms | MiB |\n|---|---|---|---|", flush=True)
    for case in GQ_ONLY_CASES:
        print(f"Measuring {case}", file=sys.stderr)
        seconds, mib = measure_times(["gq"], case, device, rounds)["gq"], measure_memory("gq", case, device)
        print(f"| {case[0]} x {case[1]} | {case[2]} | {seconds * 1e3:.1f} | {mib:.1f} |", flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--rounds", type=int, default=5, help="maximum number of rounds after the warm-up (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="skip LFQ at 18 bits, which takes minutes and 7 GB or more"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, case = json.loads(options.measure)
        print(json.dumps(measure_memory_here(name, tuple(case), "cpu")))
        return
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}, torch {torch.__version__}, float32, forward and backward pass\n")
    print_tables(options.device, options.rounds, quick=options.quick)


if __name__ == "__main__":
    main()
