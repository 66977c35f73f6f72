"""Which pretrained networks the losses use. They must be the same on all ranks and in a resumed run.

Each process finds its own files of weights. If one of them used another network, the ranks would optimize different losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from smalti.distributed import gather
from smalti.errors import SmaltiError

PROVENANCE_KEY = "smalti_loss_provenance"
"""Key in checkpoints."""

Provenance = dict[str, dict[str, str]]
"""What each loss depends on, by name of the loss, see `ReconstructionLoss.provenance`."""


def loss_provenance(losses: nn.ModuleDict) -> Provenance:
    """Return the provenance of the losses that have one."""
    found = {name: getattr(loss, "provenance", None) for name, loss in losses.items()}
    return {name: dict(provenance) for name, provenance in found.items() if provenance}


def describe_provenance(provenance: Mapping[str, str]) -> str:
    """Return the provenance of a loss as text: "metric lpips, weights vgg16.pth, sha256 39792..."."""
    return ", ".join(f"{name} {value}" for name, value in provenance.items()) or "none"


def check_same_on_all_ranks(provenance: Provenance) -> None:
    """Check that the losses use the same networks on all ranks. All ranks must call this together.

    Raises:
        SmaltiError: a rank differs from rank 0. All ranks raise it.
    """
    first, *others = gather(provenance)
    for rank, other in enumerate(others, start=1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise SmaltiError(
                    f"The loss '{name}' uses different networks on different processes: "
                    f"{describe_provenance(first.get(name, {}))} on rank 0, but "
                    f"{describe_provenance(other.get(name, {}))} on rank {rank}. Give all machines the same weights, for "
                    "example in a shared folder that SMALTI_WEIGHTS names."
                )


def check_same_as_checkpoint(provenance: Provenance, checkpoint: dict[str, Any]) -> None:
    """Check that the losses use the same networks as when a checkpoint was saved.

    Args:
        provenance: provenance of the recipe's losses.
        checkpoint: a training checkpoint. Checkpoints of version 0.1 have no provenance and pass.

    Raises:
        SmaltiError: a loss uses another network.
    """
    saved: Provenance = checkpoint.get(PROVENANCE_KEY, {})
    for name in sorted(saved.keys() & provenance.keys()):
        if saved[name] != provenance[name]:
            raise SmaltiError(
                f"The checkpoint was trained with another network for the loss '{name}' "
                f"({describe_provenance(saved[name])}) than this machine has ({describe_provenance(provenance[name])}): "
                "provide the same weights, or start from the weights of the checkpoint with --warm_start.path."
            )
