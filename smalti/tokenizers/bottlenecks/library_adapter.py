"""Quantizers with a learned codebook, and residual ones: vector-quantize-pytorch behind our promises.

The library's own defaults are kept but for those that are named here, and its options that break a promise are left out
(quantizer dropout gives negative ids). It computes in float32, so z is float32 also for a float64 input.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import vector_quantize_pytorch as library_vq

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer, straight_through
from smalti.types import Code


class LibraryAdapter(Quantizer):
    """What the adapters share: `inner` is the library's module, `_run` its forward, `dequantize` its lookup.

    In evaluation mode z is made from the ids by `dequantize`, so that `lookup` gives it back to the bit; the library's own
    forward rounds differently in places (rotation, order of summation).
    """

    inner: Any  # the library has no types

    def _check(self, **numbers: int) -> None:
        for name, number in numbers.items():
            if number < 1:
                raise SmaltiError(f"{type(self).__name__} needs {name} to be at least 1, not {number}.")

    @abstractmethod
    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The library's forward: z (B, N, C), ids (B, N, G), losses."""

    def quantize(self, h: Tensor) -> Code:
        """(B, N, C) to z (B, N, C) float32 and ids (B, N, G)."""
        h = h.float()
        if self.training:
            _synchronize(self.inner)
            z, ids, losses = self._run(h)
            return Code(z, ids, losses)
        with torch.no_grad():
            _, ids, _ = self._run(h)
        return Code(straight_through(h, self.dequantize(ids)), ids)


def real_device() -> AbstractContextManager[Any]:
    """Real tensors where everything else is built on the meta device: the library looks at the values of its constants."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def _synchronize(module: nn.Module) -> None:
    """Make codebooks learn from the global batch.

    The library decides this when it is built, and remembers it for the process; trainers start the processes' group later.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    for book in module.modules():
        if isinstance(book, library_vq.Codebook) and not book.use_ddp:
            book.use_ddp = True
            book.all_reduce_fn = book.kmeans_all_reduce_fn = distributed.all_reduce
            book.sample_fn = book.replace_sample_fn = library_vq.sample_vectors_distributed
