"""GQ against vector-quantize-pytorch's LFQ, entropy losses on, forward and backward: time and peak memory, as ratios.

    python benchmarks/entropy.py                  # about ten minutes; LFQ is left out where it would not fit
    python benchmarks/entropy.py --quick          # without LFQ at 18 bits
    python benchmarks/entropy.py --device cuda

Time: medians over rounds in one process, the rivals by turns. Memory: what one forward and backward adds at its peak to
the memory of a process that is warm; each in a process of its own on a CPU (Linux), where every large block is given back
to the system, and torch's own count on CUDA.
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
import vector_quantize_pytorch as library
from torch import Tensor

from smalti.tokenizers.bottlenecks import GQ

Case = tuple[int, int, int]
"""(groups, bits, tokens)"""

CASES: list[Case] = [(4, 8, 1024), (4, 8, 4096), (1, 16, 1024), (1, 16, 4096), (1, 18, 1024), (1, 18, 4096)]
ALONE: list[Case] = [(1, 18, 16384), (1, 20, 1024), (1, 20, 4096), (1, 22, 1024), (1, 22, 4096)]
SECONDS_A_CASE = 60.0
MIB = 2**20


def gq_step(groups: int, bits: int) -> Callable[[Tensor], Tensor]:
    """The training loss of GQ."""
    quantizer = GQ(groups, bits)

    def step(h: Tensor) -> Tensor:
        code = quantizer(h)
        losses = code.losses
        entropy = losses["token_entropy"] - losses["codebook_entropy"]
        return code.z.mean() + 0.1 * entropy + 0.25 * losses["commitment"]

    return step


def lfq_step(groups: int, bits: int) -> Callable[[Tensor], Tensor]:
    """The same of LFQ: same codebook, weights and temperature."""
    quantizer = library.LFQ(
        dim=groups * bits,
        codebook_size=2**bits,
        num_codebooks=groups,
        entropy_loss_weight=0.1,
        commitment_loss_weight=0.25,
    )

    def step(h: Tensor) -> Tensor:
        quantizer.to(h.device)
        z, _, loss = quantizer(h)
        return z.mean() + loss

    return step


RIVALS = {"gq": gq_step, "lfq": lfq_step}


def once(step: Callable[[Tensor], Tensor], h: Tensor) -> float:
    """Seconds of one forward and backward."""
    h.grad = None
    _wait(h.device)
    start = time.perf_counter()
    step(h).backward()
    _wait(h.device)
    return time.perf_counter() - start


def times(names: list[str], case: Case, device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each rival, by turns, after a round that does not count unless it took all the time there is."""
    groups, bits, tokens = case
    steps = {name: RIVALS[name](groups, bits) for name in names}
    h = _input(groups * bits, tokens, device)
    taken: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for _ in range(rounds + 1):
        for name, step in steps.items():
            taken[name].append(once(step, h))
        if time.perf_counter() - start > SECONDS_A_CASE:
            break
    return {name: statistics.median(seconds[1:] or seconds) for name, seconds in taken.items()}


def lfq_bytes(case: Case) -> int:
    """What LFQ needs at its peak: about seven tables of every token against every code (measured at 16 bits)."""
    groups, bits, tokens = case
    return 7 * 4 * groups * tokens * 2**bits


def free_bytes(device: str) -> int:
    """Memory that is free on the device."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory(name: str, case: Case, device: str) -> float:
    """Peak extra MiB of one forward and backward."""
    if device == "cuda":
        return memory_here(name, case, device)
    # Without this malloc keeps freed blocks for later, and the warm-up's would hide what the measured pass needs.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    request = json.dumps([name, case])
    done = subprocess.run(
        [sys.executable, __file__, "--measure", request], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def memory_here(name: str, case: Case, device: str) -> float:
    """`memory`, of this process."""
    groups, bits, tokens = case
    step = RIVALS[name](groups, bits)
    once(step, _input(groups * bits, 2, device))
    h = _input(groups * bits, tokens, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(step, h)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status("VmHWM")
    once(step, h)
    return (_status("VmHWM") - before) / 1024


def table(device: str, rounds: int, quick: bool) -> list[str]:
    """The two tables, as lines of markdown."""
    lines = [
        "| groups x bits | tokens | GQ ms | LFQ ms | LFQ / GQ time | GQ MiB | LFQ MiB | LFQ / GQ memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        if quick and case[1] == 18:
            continue
        print(f"measuring {case}", file=sys.stderr)
        if lfq_bytes(case) > 0.8 * free_bytes(device):
            seconds, mib = times(["gq"], case, device, rounds), memory("gq", case, device)
            lines.append(
                f"| {case[0]} x {case[1]} | {case[2]} | {seconds['gq'] * 1e3:.1f} | does not fit | | {mib:.1f} | "
                f"about {lfq_bytes(case) / MIB:.0f}, not measured | |"
            )
            continue
        seconds = times(["gq", "lfq"], case, device, rounds)
        mib = {name: memory(name, case, device) for name in RIVALS}
        lines.append(
            f"| {case[0]} x {case[1]} | {case[2]} | {seconds['gq'] * 1e3:.1f} | {seconds['lfq'] * 1e3:.1f} | "
            f"{seconds['lfq'] / seconds['gq']:.0f} | {mib['gq']:.1f} | {mib['lfq']:.1f} | {mib['lfq'] / mib['gq']:.0f} |"
        )
    lines += ["", "| GQ alone, groups x bits | tokens | ms | MiB |", "|---|---|---|---|"]
    for case in ALONE:
        print(f"measuring {case}", file=sys.stderr)
        seconds, mib = times(["gq"], case, device, rounds)["gq"], memory("gq", case, device)
        lines.append(f"| {case[0]} x {case[1]} | {case[2]} | {seconds * 1e3:.1f} | {mib:.1f} |")
    return lines


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, at most (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="leave out 18 bits against LFQ, which takes minutes and 7 GB or more"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, case = json.loads(arguments.measure)
        print(memory_here(name, tuple(case), "cpu"))
        return
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, float32, forward and backward\n")
    print("\n".join(table(arguments.device, arguments.rounds, arguments.quick)))


def _input(channels: int, tokens: int, device: str) -> Tensor:
    """(1, tokens, channels), spread so that at temperature 0.01 some bits are sure and some are not."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(1, tokens, channels, generator=generator) * 0.01).to(device).requires_grad_()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _status(field: str) -> int:
    """KiB of a field of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"This system does not tell {field}: run on Linux, or with --device cuda.")


if __name__ == "__main__":
    main()
