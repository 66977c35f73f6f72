"""Base class of metrics of latents: how easy the latents of a tokenizer are to model, without training a generator.

Shapes: B batch; T frames, H, W pixels; C channels; t, h, w latent positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from smalti.eval.metrics.base import Metric
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents


class LatentMetric(Metric):
    """A metric of the latents of a tokenizer. It has no value for the baseline, which has no latents.

    Subclasses declare the attributes of `Metric`, and implement `reset`, `update_latents`, `compute` and `merge`. Their
    definition ends with what the value predicts. The latents of a discrete tokenizer are its codewords, those of a KL
    bottleneck its means.
    """

    all_channels = True

    def update(self, original: Tensor, candidates: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """Do nothing: pixels have no latents. `evaluate` calls `update_latents` instead."""

    @abstractmethod
    def update_latents(self, tokenizer: Tokenizer, batch: Batch, latents: Latents) -> None:
        """Add a batch.

        Args:
            tokenizer: the tokenizer, in evaluation mode.
            batch: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], and names.
            latents: its latents of the pixels.
        """

    def finish(self, tokenizer: Tokenizer) -> None:
        """Do what needs the samples of all processes, before processes merge. All of them call it. By default: nothing."""

    def find_obstacle(self, tokenizer: Tokenizer) -> str | None:
        """Return why a tokenizer has no value, for reports; None if it has one."""
        return None
