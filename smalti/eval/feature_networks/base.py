"""Base class of the pretrained networks that metrics and losses use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import nn

from smalti.files import sha256


class FrozenNetwork(nn.Module):
    """A network that is never trained: its parameters have no gradients, and it always stays in evaluation mode.

    Attributes:
        metric: name of the metric that is computed from the network.
        comparable: whether published values of the metric exist. False for proxies. See `smalti.eval.metrics.base.Metric`.
        definition: what the metric is computed from, for reports.
        provenance: what is needed to reproduce the values, for reports: network, file of weights and its SHA-256.
    """

    metric: str
    comparable: bool
    definition: str
    provenance: dict[str, str]

    def freeze(self) -> None:
        """Disable gradients and switch to evaluation mode. Constructors call it when all layers exist."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, even if a parent module is set to training mode."""
        return super().train(False)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the global random state afterwards. Building a network must not change the random numbers of a run."""
    with torch.random.fork_rng(devices=[]):
        yield


def file_provenance(file: Path) -> dict[str, str]:
    """Return the provenance of a file of weights: its name and its SHA-256."""
    return {"weights": file.name, "sha256": sha256(file)}
