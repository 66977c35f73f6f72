"""Dividing a job among processes: ranks of `torchrun` and SLURM, and one process per GPU of a machine.

Each process gets every n-th unit. They exchange nothing, and none of them waits for another one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from smalti.errors import SmaltiError

T = TypeVar("T")

PARENT_VARIABLE = "SMALTI_PARENT_PROCESS"
"""Environment variable with the process that has started this one for a GPU."""


class Rank(NamedTuple):
    """A process among those that share a job.

    Attributes:
        rank: its index.
        world_size: number of processes.
        local_rank: its index on its machine, which selects the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def select(self, items: Sequence[T]) -> list[T]:
        """Return the items of this process."""
        return list(items[self.rank :: self.world_size])


_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
"""Variables of a process that `srun` started. A batch script itself also has SLURM_PROCID and SLURM_NTASKS: what it runs
without `srun` is one process, not one of SLURM_NTASKS."""


def find_rank(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Return the rank that `torchrun` or SLURM's `srun` gives this process; None if neither started it.

    Raises:
        SmaltiError: the variables of the environment are no numbers.
    """
    for names in (_TORCHRUN, _SRUN):
        if not all(name in environment for name in names):
            continue
        try:
            rank = Rank(*(int(environment[name]) for name in names))
        except ValueError:
            values = ", ".join(f"{name}={environment[name]}" for name in names)
            raise SmaltiError(
                f"The environment does not give a rank ({values}): start with torchrun or srun."
            ) from None
        if rank.world_size > 1:
            return rank
    return None


def rank_device(name: str, rank: Rank) -> str:
    """Return the device of a rank: its own GPU for "auto" and "cuda", if there are GPUs."""
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{rank.local_rank % torch.cuda.device_count()}"
    return name


def count_devices(name: str) -> int:
    """Return the number of processes to start on this machine: one per GPU, or one."""
    import torch

    return max(1, torch.cuda.device_count()) if name in ("auto", "cuda") and torch.cuda.is_available() else 1


def run_processes(arguments: Sequence[str], count: int) -> int:
    """Run this command in several processes of this machine, each of which does a part.

    Args:
        arguments: the arguments of `smalti`.
        count: number of processes.

    Returns:
        The exit code: 0 if all succeed. The processes print their errors themselves.

    Raises:
        SmaltiError: a process was killed.
    """
    processes = []
    for rank in range(count):
        variables = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, PARENT_VARIABLE: os.getpid()}
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        processes.append(subprocess.Popen([sys.executable, "-m", "smalti", *arguments], env=environment))
    try:
        codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise
    for rank, code in enumerate(codes):
        if code < 0:
            raise SmaltiError(
                f"Process {rank} was killed by {signal.Signals(-code).name}: if memory is short, decrease --batch-size or "
                "--workers; run the command again, which continues where it stopped."
            )
    return max(codes)


def end_with_parent() -> None:
    """End this process when the one that has started it for a GPU is gone, so that it can be started again."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
