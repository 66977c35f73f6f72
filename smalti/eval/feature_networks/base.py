"""What the measuring networks have in common: they are never trained, and say what they are.

Shapes: B batch, H, W pixels, C channels, h, w positions of a feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import nn

from smalti.eval.pretrained_weights import digest


class FrozenNetwork(nn.Module):
    """A network that measures: its parameters take no gradient and it never leaves evaluation mode.

    Attributes:
        metric: the name that its values carry in reports.
        comparable: whether values may stand beside published ones.
        provenance: what is needed to get the same numbers again, for reports: networks, files and their SHA-256.
    """

    metric: str
    comparable: bool
    provenance: dict[str, str]

    def freeze(self) -> None:
        """Called by constructors when everything is in place."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also when a module that holds this one is set to training."""
        return super().train(False)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Build a network without moving the global random numbers of the run that asked for it."""
    with torch.random.fork_rng(devices=[]):
        yield


def file_provenance(file: Path) -> dict[str, str]:
    """The provenance of a file of weights: its name and its SHA-256."""
    return {"weights": file.name, "sha256": digest(file)}
