"""Time and peak memory of a call, on a CPU or on CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MIB = 2**20


def time_call(call: Callable[[], object], device: str) -> float:
    """Return the seconds that a call takes."""
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def peak_memory(call: Callable[[], object], device: str) -> float:
    """Return the memory in MiB that a call needs at its peak, in addition to the memory in use before it.

    On CUDA, this is the count of torch's allocator. On a CPU, it is the peak resident memory of this process (Linux only):
    measure in a process that `run_in_subprocess` started, and warm up the call first.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current resident memory
    before = _peak_resident_kib()
    call()
    return (_peak_resident_kib() - before) / 1024


def run_in_subprocess(script: str, request: Any, *, partial: bool = False, trim: bool = True) -> Any:
    """Run `python script --measure REQUEST` in a new process.

    Args:
        script: a script that parses the JSON of `--measure` and prints its result as JSON, on the last line.
        request: what JSON can represent.
        partial: whether a script that was killed after it printed something, such as for its memory, still has a result:
            what it printed last, a dictionary, with the reason as `failure`.
        trim: whether its allocator returns freed memory to the system, for `peak_memory`. This can double the time: do not
            measure times in such a process.

    Returns:
        The result of the script.
    """
    # By default malloc keeps freed blocks. Those of the warm-up would hide the memory that the measured call needs.
    thresholds = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if trim else {}
    process = subprocess.run(
        [sys.executable, script, "--measure", json.dumps(request)],
        env=os.environ | thresholds,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = process.stdout.splitlines()
    killed = process.returncode < 0 and bool(lines) and partial
    if process.returncode and not killed:
        sys.exit(process.returncode)  # the script has printed why
    return {**json.loads(lines[-1]), "failure": "killed"} if killed else json.loads(lines[-1])


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise SystemExit("This system does not report peak memory (VmHWM): run on Linux, or with --device cuda.")
