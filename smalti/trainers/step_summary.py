"""What all ranks learn about an optimizer step, through one asynchronous all-reduce and one transfer to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from smalti.distributed import rank, start_sum_over_ranks, world_size


@dataclass(frozen=True)
class StepResult:
    """An optimizer step over all its micro-batches and all ranks. It is the same on every rank, except `norms`.

    Attributes:
        means: mean of each metric over the micro-batches and ranks that computed it, by name: float32 scalars on the CPU.
        diverged_ranks: ranks on which a metric is NaN or infinite, in order.
        samples: number of samples of the step.
        flags: for each flag, whether it is set on any rank.
        norms: the values that were passed to `StepSummary.finish`, on the CPU.
    """

    means: dict[str, Tensor]
    diverged_ranks: list[int]
    samples: int
    flags: list[bool]
    norms: list[Tensor]


class StepSummary:
    """Collects metrics and flags of one optimizer step, and combines them over all ranks.

    The all-reduce is started before the backward pass of the last micro-batch and runs in parallel to it. Reading the
    result is the only point of a step at which the host waits for the device.

    Args:
        metrics: names of all metrics that a step can have, the same on every rank. A step may compute only some of them.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = list(metrics)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._samples = 0
        self._packed: Tensor | None = None
        self._work: distributed.Work | None = None

    def add(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Add a micro-batch.

        Args:
            values: scalars by name, on the device of the model.
            samples: number of samples in the micro-batch.
        """
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._samples += samples

    def means(self) -> dict[str, Tensor]:
        """Return the means over the micro-batches of this process so far, on the device of the model."""
        return {name: value / self._counts[name] for name, value in self._sums.items()}

    def start(self, flags: Sequence[bool]) -> None:
        """Start the all-reduce. All ranks must call this together, with the same number of flags.

        Args:
            flags: set on any rank means set in the result.
        """
        zero = torch.zeros_like(next(iter(self._sums.values())))
        sums = torch.stack([self._sums.get(name, zero) for name in self._metrics])
        counts = [self._counts.get(name, 0) for name in self._metrics]
        host = torch.tensor([*counts, self._samples, *flags], dtype=torch.float32)
        if sums.is_cuda:
            host = host.pin_memory()  # without pinned memory, the host would wait for the device
        here = torch.arange(world_size(), device=sums.device) == rank()
        diverged = (here & ~sums.isfinite().all()).float()
        self._packed = torch.cat([sums, diverged, host.to(sums.device, non_blocking=True)])
        self._work = start_sum_over_ranks(self._packed)

    def finish(self, norms: Sequence[Tensor] = ()) -> StepResult:
        """Wait for the all-reduce and return its result.

        Args:
            norms: scalars on the device of the model, which are transferred to the host together with the result. They are
                not reduced.

        Raises:
            RuntimeError: the all-reduce was not started.
        """
        if self._packed is None:
            raise RuntimeError("StepSummary.finish was called before StepSummary.start.")
        if self._work is not None:
            self._work.wait()
        on_host = torch.cat([self._packed, *(norm.detach().float().reshape(1) for norm in norms)]).cpu()
        names = len(self._metrics)
        flags = len(self._packed) - 2 * names - world_size() - 1
        sums, diverged, counts, samples, set_flags, norms_on_host = on_host.split(
            [names, world_size(), names, 1, flags, len(norms)]
        )
        return StepResult(
            means={
                name: total / count
                for name, total, count in zip(self._metrics, sums, counts, strict=True)
                if count.item() > 0
            },
            diverged_ranks=diverged.nonzero().flatten().tolist(),
            samples=int(samples),
            flags=[flag > 0 for flag in set_flags.tolist()],
            norms=list(norms_on_host),
        )
