"""Settings of threads and memory that save CPU time, applied before a command imports torch.

The defaults suit a process that has all cores for itself and computes without pause. A command that also decodes and
encodes files, or shares its cores with other processes, spends more time waiting and requesting memory than computing.
"""

from __future__ import annotations

import ctypes
import os
import sys

_SPINS = "1000"
"""Iterations for which a thread without work spins before it sleeps, about 20 microseconds.

The default of GNU OpenMP is 300,000, several milliseconds at the end of each parallel region. It uses 1000 if it has more
threads than cores (libgomp manual, GOMP_SPINCOUNT).
"""

_MMAP_THRESHOLD = 32 * 2**20
"""Size in bytes from which glibc requests each block from the system: the largest value that glibc accepts.

Each page of such a block is cleared by the kernel when it is used for the first time.
"""

_TRIM_THRESHOLD = 512 * 2**20
"""Freed memory in bytes at the end of the heap that is kept for the next blocks."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def apply_cpu_settings() -> None:
    """Let idle threads sleep soon, and keep freed memory for the next tensors.

    Environment variables that configure OpenMP's waiting or glibc's malloc have priority. Where OpenMP or the C library is
    another one, the settings have no effect. Processes that the command starts inherit the setting for threads.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        _set_malloc_thresholds()


def _set_malloc_thresholds() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries may not have it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
