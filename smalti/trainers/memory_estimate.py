"""Estimate of the memory that a training step needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.distributed import world_size
from smalti.trainers.hidden_matrices import hidden_matrices
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.muon import MATRIX_KEY
from smalti.trainers.number_format import format_bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one process on its device, in bytes.

    Attributes:
        weights: parameters and buffers of all networks, including those of the losses.
        gradients: gradients of the trained parameters; twice as many with DDP, which copies them to buckets.
        optimizer: state of the optimizer.
        average: averaged weights.
        activations: what the forward pass keeps for the backward pass, for the batch that was measured.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """The sum. Temporary tensors, libraries and fragmentation come on top."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    def __str__(self) -> str:
        """Return the total and its parts, such as "2.1 GB (weights 0.2 GB, ...)"."""
        parts = (f"{name} {format_bytes(size)}" for name, size in vars(self).items() if size)
        return f"{format_bytes(self.total)} ({', '.join(parts)})"


def estimate_memory(module: TokenizerTraining, activations: int, *, averaged: bool) -> MemoryEstimate:
    """Estimate the memory of a training step.

    Args:
        module: the training module.
        activations: see `SavedTensors.size`.
        averaged: whether an average of the tokenizer's weights is kept.
    """
    trained = _size(p for p in module.parameters() if p.requires_grad)
    return MemoryEstimate(
        weights=_size(all_weights(module)),
        gradients=trained * (2 if world_size() > 1 else 1),
        optimizer=_optimizer_state(module),
        average=4 * sum(p.numel() for p in module.tokenizer.parameters()) if averaged else 0,
        activations=activations,
    )


class SavedTensors:
    """Measures the size of the tensors that a forward pass saves for its backward pass.

    With gradient checkpointing, the inputs of the checkpointed blocks are not counted.

    Args:
        ignored: tensors that exist anyway, such as parameters.
    """

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        self._ignored = {tensor.untyped_storage().data_ptr() for tensor in ignored}
        self._sizes: dict[int, int] = {}

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count what is saved inside of the context. It must stay alive until the context ends."""
        with torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor):
            yield

    @property
    def size(self) -> int:
        """Bytes; storage that several tensors share counts once."""
        return sum(self._sizes.values())

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._ignored:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


def all_weights(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module, also of the networks that losses keep in lists and do not register."""
    found: dict[int, Tensor] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    for part in module.modules():
        lists = (value for value in vars(part).values() if isinstance(value, list))
        for network in (item for items in lists for item in items if isinstance(item, nn.Module)):
            found |= {id(tensor): tensor for tensor in all_weights(network)}
    return list(found.values())


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _optimizer_state(module: TokenizerTraining) -> int:
    """Return the size of the optimizer's state, in bytes. The optimizer itself has none before its first step."""
    matrices = hidden_matrices(module.tokenizer)
    trained = [p for p in module.parameters() if p.requires_grad]
    size = 0.0
    for is_matrix in (False, True):
        of_kind = [p for p in trained if (p in matrices) == is_matrix]
        size += _size(of_kind) * _optimizer_state_ratio(module, is_matrix=is_matrix) if of_kind else 0
    return round(size)


def _optimizer_state_ratio(module: TokenizerTraining, *, is_matrix: bool) -> float:
    """Return the size of the optimizer's state relative to the parameters, measured on one parameter.

    It is large enough for optimizers that keep the state of small parameters in float32, and of others in 8 bits.
    """
    parameter = nn.Parameter(torch.zeros(128, 128, device=module.device))
    optimizer = module.optimizer([{"name": "tokenizer", "params": [parameter], MATRIX_KEY: [is_matrix]}])
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor) and value.ndim]
    return _size(states) / _size([parameter])
