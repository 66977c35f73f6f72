"""Base class of the quantizers that wrap a module of vector-quantize-pytorch: VQ, SimVQ, ResidualVQ, ResidualFSQ.

Defaults are the library's unless an adapter documents another one. Options that break the contract of `Quantizer` are left
out, such as quantizer dropout, which returns negative ids. The library computes in float32: z is float32 even for a float64
input.

Shapes: B batch; N positions; C channels; G tokens per position.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import vector_quantize_pytorch as library_vq

from smalti.distributed import world_size
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer, straight_through
from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.types import Code


class LibraryAdapter(Quantizer):
    """Base class of quantizers that wrap a module of vector-quantize-pytorch, stored as `inner`.

    In evaluation mode, z is computed from the ids by `dequantize`, which makes `lookup` exact. The library's own forward
    can differ by rounding errors (rotation trick, order of summation).

    Args:
        dim: channels C of a position and of a codeword.
        codebook_size: number of codewords of each codebook.
        num_quantizers: number of residual quantizers, which is the number of tokens per position.

    Raises:
        SmaltiError: an argument is below 1.
    """

    inner: Any  # the library has no type annotations

    def __init__(self, dim: int, codebook_size: int, num_quantizers: int = 1) -> None:
        super().__init__()
        sizes = {"dim": dim, "codebook_size": codebook_size, "num_quantizers": num_quantizers}
        for name, size in sizes.items():
            if size < 1:
                raise SmaltiError(f"{type(self).__name__} needs {name} to be at least 1, not {size}.")
        self.in_dim = self.out_dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = num_quantizers

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return one component per channel, with the relative scales of the components, and fit the codebooks to them."""
        count = min(coefficients.shape[1], self.in_dim)
        scales = (variances[:count] / variances[0]).sqrt()
        vectors = coefficients.new_zeros(len(coefficients), self.in_dim)
        vectors[:, :count] = coefficients[:, :count] * scales
        scales = scales * self.init_codebooks(vectors)[:count]

        def target(c: Tensor) -> Tensor:
            h = c.new_zeros(*c.shape[:-1], self.in_dim)
            h[..., :count] = c[..., :count] * scales
            return h

        return StartCode(linear_units(count, coefficients.shape[1]), target, count)

    @abstractmethod
    def init_codebooks(self, vectors: Tensor) -> Tensor:
        """Initialize the codebooks for vectors (N, C), and return the factors (C,) by which the encoder scales them."""

    @abstractmethod
    def run_inner(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Run the library's forward on h (B, N, C) and return z (B, N, C), ids (B, N, G), and losses."""

    def find_ids(self, h: Tensor) -> Tensor:
        """Return the ids (B, N, G) of h (B, N, C) for an exported program.

        A subclass overrides this if the library's forward reads the values of its buffers, which an export does not know.
        """
        return self.run_inner(h)[1]

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, C) to z (B, N, C) float32 and ids (B, N, G)."""
        h = h.float()
        if self.training:
            _synchronize_codebooks(self.inner)
            return Code(*self.run_inner(h))
        with torch.no_grad():
            ids = self.find_ids(h) if torch.compiler.is_exporting() else self.run_inner(h)[1]
        return Code(straight_through(h, self.dequantize(ids)), ids)


def build_inner(cls: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Build a module of the library, on the CPU if the default device is the meta device.

    The library reads the values of its constants while it is built, and meta tensors have none.

    Args:
        cls: class of the module.
        options: its constructor arguments.
    """
    device = torch.get_default_device()
    with torch.device("cpu") if device.type == "meta" else device:
        return cls(**options)


def _synchronize_codebooks(module: nn.Module) -> None:
    """Make codebooks learn from the global batch.

    The library decides this when the module is built, but trainers create the process group later.
    """
    if world_size() == 1:
        return
    for codebook in module.modules():
        if isinstance(codebook, library_vq.Codebook) and not codebook.use_ddp:
            codebook.use_ddp = True
            codebook.all_reduce_fn = codebook.kmeans_all_reduce_fn = distributed.all_reduce
            codebook.sample_fn = codebook.replace_sample_fn = library_vq.sample_vectors_distributed
