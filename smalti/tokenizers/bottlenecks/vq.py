"""Quantizers with a learned codebook, and residual ones: vector-quantize-pytorch behind our promises.

The library's own defaults are kept but for those that are named here, and its options that break a promise are left out
(quantizer dropout gives negative ids). It computes in float32, so z is float32 also for a float64 input.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
import vector_quantize_pytorch as library
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from vector_quantize_pytorch import vector_quantize_pytorch as library_vq

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer, straight_through
from smalti.types import Code

_MOST_ENUMERATED = 2**20


class _Adapter(Quantizer):
    """What the adapters share: `inner` is the library's module, `_run` its forward, `codes` its lookup.

    In evaluation mode z is made from the ids by `codes`, so that `lookup` gives it back to the bit; the library's own
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

    def code(self, h: Tensor) -> Code:
        """(B, N, C) to z (B, N, C) float32 and ids (B, N, G)."""
        h = h.float()
        if self.training:
            _synchronize(self.inner)
            z, ids, losses = self._run(h)
            return Code(z, ids, losses)
        with torch.no_grad():
            _, ids, _ = self._run(h)
        return Code(straight_through(h, self.codes(ids)), ids)


class VQ(_Adapter):
    """Vector quantization (VQ-VAE, arXiv 1711.00937), whose codes are moving averages of what fell to them (appendix A.1).

    The statistics are those of the global batch where torch.distributed is initialised.

    Losses, in training mode:
        commitment: mean squared distance between h and its code.

    Args:
        dim: channels of a position and of a code.
        codebook_size: codes.
        ema_decay: of the moving average, a step.
        cosine: compare directions (ViT-VQGAN, arXiv 2110.04627); codes then have length 1.
        kmeans_init: start from the clusters of the first batch.
        dead_code_threshold: a code whose average count a step falls below it is replaced by a random vector of the batch;
            0: never.
        rotation_trick: pass gradients by rotation (arXiv 2410.06424), not straight through.

    Raises:
        SmaltiError: `dim` or `codebook_size` is below 1.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        ema_decay: float = 0.99,
        cosine: bool = False,
        kmeans_init: bool = False,
        dead_code_threshold: int = 0,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self._check(dim=dim, codebook_size=codebook_size)
        self.in_dim = self.out_dim = self.dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = 1
        with _off_meta():
            self.inner = library.VectorQuantize(
                dim=dim,
                codebook_size=codebook_size,
                decay=ema_decay,
                use_cosine_sim=cosine,
                kmeans_init=kmeans_init,
                threshold_ema_dead_code=dead_code_threshold,
                rotation_trick=rotation_trick,
                sync_codebook=False,
            )

    def codes(self, ids: Tensor) -> Tensor:
        """(B, N, 1) to (B, N, C)."""
        return self.inner.get_output_from_indices(ids.squeeze(-1))

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids, _, losses = self.inner(h, return_loss_breakdown=True)
        return z, ids.unsqueeze(-1), {"commitment": losses.commitment}


class SimVQ(_Adapter):
    """Vector quantization whose codebook is a learned linear map of frozen random vectors (SimVQ, arXiv 2411.02038).

    Losses, in training mode:
        commitment: mean squared distance between h and its code, the gradient to h scaled by `input_weight`.

    Args:
        dim: channels of a position and of a code.
        codebook_size: codes.
        input_weight: how much of the commitment's gradient reaches h; all of it reaches the codebook.
        rotation_trick: pass gradients by rotation (arXiv 2410.06424), not straight through.

    Raises:
        SmaltiError: `dim` or `codebook_size` is below 1.
    """

    def __init__(self, dim: int, codebook_size: int, input_weight: float = 0.25, rotation_trick: bool = True) -> None:
        super().__init__()
        self._check(dim=dim, codebook_size=codebook_size)
        self.in_dim = self.out_dim = self.dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = 1
        with _off_meta():
            self.inner = library.SimVQ(
                dim=dim,
                codebook_size=codebook_size,
                rotation_trick=rotation_trick,
                input_to_quantize_commit_loss_weight=input_weight,
            )

    def codes(self, ids: Tensor) -> Tensor:
        """(B, N, 1) to (B, N, C)."""
        # The library maps the chosen codes only, whose rounding depends on how many they are; mapping the book does not.
        return F.embedding(ids.squeeze(-1), self.inner.codebook)

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids, commitment = self.inner(h)
        return z, ids.unsqueeze(-1), {"commitment": commitment}


class ResidualVQ(_Adapter):
    """Several `VQ`, each coding what the ones before it left over (SoundStream, arXiv 2107.03312, algorithm 1).

    Losses, in training mode:
        commitment: the sum over the quantizers of the mean squared distance between a residual and its code.

    Args:
        dim: channels of a position and of a code.
        num_quantizers: quantizers, and tokens a position.
        codebook_size: codes of each.
        ema_decay: see `VQ`.
        kmeans_init: see `VQ`.
        dead_code_threshold: see `VQ`.
        rotation_trick: see `VQ`.

    Raises:
        SmaltiError: `dim`, `num_quantizers` or `codebook_size` is below 1.
    """

    def __init__(
        self,
        dim: int,
        num_quantizers: int,
        codebook_size: int,
        ema_decay: float = 0.99,
        kmeans_init: bool = False,
        dead_code_threshold: int = 0,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self._check(dim=dim, num_quantizers=num_quantizers, codebook_size=codebook_size)
        self.in_dim = self.out_dim = self.dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = self.num_quantizers = num_quantizers
        with _off_meta():
            self.inner = library.ResidualVQ(
                dim=dim,
                num_quantizers=num_quantizers,
                codebook_size=codebook_size,
                decay=ema_decay,
                kmeans_init=kmeans_init,
                threshold_ema_dead_code=dead_code_threshold,
                rotation_trick=rotation_trick,
                sync_codebook=False,
            )

    def codes(self, ids: Tensor) -> Tensor:
        """(B, N, num_quantizers) to (B, N, C)."""
        return self.inner.get_output_from_indices(ids)

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids, losses = self.inner(h)
        return z, ids, {"commitment": losses.sum()}


class ResidualFSQ(_Adapter):
    """Several finite scalar quantizers, each coding what the ones before it left over (RVQ's algorithm, see `ResidualVQ`).

    The levels lie symmetrically about 0 (arXiv 2411.19842, section 3.2). It has no losses and no parameters.

    Args:
        levels: levels of each channel, each at least 2; all quantizers share them.
        num_quantizers: quantizers, and tokens a position.

    Raises:
        SmaltiError: no levels, a level below 2, no quantizer, or more than 2^20 codes, which the library would enumerate.
    """

    def __init__(self, levels: list[int], num_quantizers: int) -> None:
        super().__init__()
        self._check(num_quantizers=num_quantizers)
        if not levels or min(levels) < 2:
            raise SmaltiError(f"ResidualFSQ takes one or more levels, each at least 2, not {list(levels)}.")
        self.levels = list(levels)
        self.tokens_per_position = self.num_quantizers = num_quantizers
        self.codebook_size = math.prod(levels)
        if self.codebook_size > _MOST_ENUMERATED:
            raise SmaltiError(
                f"ResidualFSQ enumerates its codebook, and levels {self.levels} make {self.codebook_size} codes, more than "
                f"{_MOST_ENUMERATED}: give it fewer levels and more quantizers, or use FSQ."
            )
        self.in_dim = self.out_dim = len(levels)
        with _off_meta():
            self.inner = library.ResidualFSQ(levels=self.levels, num_quantizers=num_quantizers)

    def codes(self, ids: Tensor) -> Tensor:
        """(B, N, num_quantizers) to (B, N, C)."""
        return self.inner.get_output_from_indices(ids)

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids = self.inner(h)
        return z, ids.long(), {}


def _off_meta() -> AbstractContextManager[Any]:
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
