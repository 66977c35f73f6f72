"""What a process has measured so far, and how the processes' shares become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch.distributed as dist

from smalti.errors import SmaltiError
from smalti.eval.codebook_usage import IdCounts
from smalti.eval.frechet import FeatureStatistics
from smalti.eval.results import Example


@dataclass
class Accumulator:
    """Sums of one process; two of them merge into what one process would have measured.

    Attributes:
        keep: number of examples.
        clips: whether the samples are clips and not images; None: none came so far.
        samples: values by sample and metric.
        spreads: of the features of originals, reconstructions and baselines; empty without a feature network.
        counts: of ids, one a token of a position; empty where the tokenizer is continuous.
        size: pixels, latent positions and the baseline's pixels of all samples.
        examples: by name.
    """

    keep: int
    clips: bool | None = None
    samples: dict[str, dict[str, float]] = field(default_factory=dict)
    spreads: dict[str, FeatureStatistics] = field(default_factory=dict)
    counts: list[IdCounts] = field(default_factory=list)
    size: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Example] = field(default_factory=dict)

    def claim(self, names: Iterable[str], clips: bool | None) -> None:
        """Make room for samples, and refuse one that was counted before or is of another kind.

        Args:
            names: of the samples.
            clips: whether they are clips and not images; None where there are none.

        Raises:
            SmaltiError: a sample was counted before, or images and clips are mixed.
        """
        if None not in (clips, self.clips) and clips != self.clips:
            raise SmaltiError("The set holds images and clips, whose values have no common mean: evaluate them apart.")
        self.clips = self.clips if clips is None else clips
        for name in names:
            if name in self.samples:
                raise SmaltiError(
                    f"Sample '{name}' came twice, which would count it twice: give every sample a name of its own, and "
                    "every process a share of its own, without padding."
                )
            self.samples[name] = {}

    def show(self, example: Example) -> None:
        """Keep an example if it is among the first `keep` by name."""
        self.examples[example.name] = example
        if len(self.examples) > self.keep:
            del self.examples[max(self.examples)]

    def merge(self, other: Accumulator) -> None:
        """Take in what another process measured.

        Raises:
            SmaltiError: both measured the same sample, or one has images and the other clips.
        """
        self.claim(other.samples, other.clips)
        self.samples |= other.samples
        for key, spread in other.spreads.items():
            self.spreads[key].merge(spread)
        for mine, theirs in zip(self.counts, other.counts, strict=True):
            mine.merge(theirs)
        self.size.update(other.size)
        for example in other.examples.values():
            self.show(example)


def gather_accumulators(mine: Accumulator, failure: SmaltiError | None) -> tuple[Accumulator, int]:
    """The tally of all processes together, on every process, and their number; `mine` and 1 where there is one.

    Args:
        mine: this process's share.
        failure: what went wrong here, if anything did; raised on all processes, so that none waits for one that left.

    Raises:
        SmaltiError: the failure of the lowest rank that has one, or a sample that two processes measured.
    """
    ours = (mine, None if failure is None else str(failure))
    everyone: list[tuple[Accumulator, str | None]] = [ours]
    if dist.is_available() and dist.is_initialized():
        everyone = [ours] * dist.get_world_size()
        dist.all_gather_object(everyone, ours)
    for _, message in everyone:
        if message is not None:
            raise SmaltiError(message) from failure
    whole = everyone[0][0]
    for other, _ in everyone[1:]:
        whole.merge(other)
    return whole, len(everyone)
