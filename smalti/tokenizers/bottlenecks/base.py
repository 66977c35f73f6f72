"""Base classes of bottlenecks. A bottleneck processes positions, not grids, in float32 under any autocast.

Shapes: B batch; N positions; C channels; G tokens per position.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.gradient_estimators import straight_through as straight_through  # a public name here
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.linear_start.code import StartCode
from smalti.types import Code


class Bottleneck(Configurable):
    """Base class of the modules between encoder and decoder that limit the information.

    Attributes:
        in_dim: channels that the encoder provides.
        out_dim: channels that the decoder receives.
        loss_names: names of the losses that `forward` returns in training mode. A class that has losses declares them, so
            that the weights of a recipe can be checked before training. A joint bottleneck has those of both branches.
    """

    in_dim: int
    out_dim: int
    loss_names: tuple[str, ...] = ()

    @property
    def branches(self) -> dict[str, Bottleneck]:
        """The bottlenecks that a joint bottleneck combines, by name: "discrete" and "continuous". Empty for all others."""
        return {}

    def forward(self, h: Tensor) -> Code:
        """Quantize or regularize a batch of positions in float32, or in float64 if h is, under any autocast.

        Half precision would give wrong ids at nearly all positions (98% with FSQ in bfloat16).

        Args:
            h: (B, N, in_dim), of any floating-point dtype.

        Returns:
            z (B, N, out_dim), ids, and in training mode the losses named in `loss_names`.

        Raises:
            ValueError: h does not have `in_dim` channels.
            SmaltiError: `quantize` returned a loss that is not in `loss_names`.
        """
        if h.ndim != 3 or h.shape[-1] != self.in_dim:
            raise ValueError(f"{type(self).__name__} takes (B, N, {self.in_dim}), not {tuple(h.shape)}.")
        with _without_autocast(h.device):
            code = self.quantize(h if h.dtype == torch.float64 else h.float())
        undeclared = [name for name in code.losses if name not in self.loss_names]
        if undeclared:
            raise SmaltiError(
                f"{type(self).__name__} returned the loss '{undeclared[0]}', which it does not declare: set loss_names = "
                f"{(*self.loss_names, *undeclared)} in the class."
            )
        return code

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return how this bottleneck represents principal components, and set its own parameters for that.

        A training that starts as a linear codec (`smalti.tokenizers.linear_start`) calls this once, with the same
        coefficients on every rank.

        Args:
            coefficients: (N, K) coefficients of random positions, each with variance 1, by decreasing variance of its
                component.
            variances: (K,) variances of the components.
            hidden_units: maximum number of hidden units of the code if they have offsets (`Encoder.hidden_units`).

        Raises:
            SmaltiError: this bottleneck has no such start.
        """
        raise SmaltiError(
            f"{type(self).__name__} does not define how it represents principal components: implement `linear_start` in "
            "the class, or start with random weights (--start.method random)."
        )

    @abstractmethod
    def quantize(self, h: Tensor) -> Code:
        """Implement `forward` for float32 or float64 h (B, N, in_dim), with autocast disabled."""


class Quantizer(Bottleneck):
    """Base class of bottlenecks that map each position to integers.

    Attributes:
        codebook_size: number of values of a token, an exact Python integer of any size.
        tokens_per_position: tokens G per latent position.
        hardness: share of the distance from a vector to its codeword, in [0, 1], that the decoder sees in training. It is 1
            unless a training goes from continuous to quantized (`smalti.trainers.Curriculum`). Evaluation does not use it.
    """

    codebook_size: int
    tokens_per_position: int
    hardness: float = 1.0

    @property
    def bits_per_position(self) -> float:
        """Nominal bits per latent position: G log2(codebook_size)."""
        return self.tokens_per_position * math.log2(self.codebook_size)

    def lookup(self, ids: Tensor) -> Tensor:
        """Return the codewords of ids, exactly equal to the z that `forward` returned with these ids.

        Args:
            ids: (B, N, G) integers in [0, codebook_size).

        Returns:
            (B, N, out_dim) float32.

        Raises:
            SmaltiError: ids has another number of tokens per position, or an id is out of range.
        """
        if ids.ndim != 3 or ids.shape[-1] != self.tokens_per_position:
            raise SmaltiError(
                f"{type(self).__name__} has {self.tokens_per_position} tokens per position and takes ids of shape "
                f"(B, N, {self.tokens_per_position}), not {tuple(ids.shape)}."
            )
        # Tensors have no values while they are traced or on the meta device.
        if not torch.compiler.is_compiling() and ids.numel() and not ids.is_meta:
            low, high = (int(bound) for bound in ids.aminmax())
            if low < 0 or high >= self.codebook_size:
                raise SmaltiError(
                    f"The ids range from {low} to {high}, but {type(self).__name__} takes 0 to {self.codebook_size - 1}: "
                    "decode them with the tokenizer that wrote them, and store ids as int64."
                )
        with _without_autocast(ids.device):
            return self.dequantize(ids.long())

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return how far each token is from the boundary at which its id changes.

        Two programs that compute the same function round differently, so that ids with a tiny margin may differ.
        `smalti verify` excuses a different id only below a threshold. The default excuses none.

        Args:
            h: (B, N, in_dim), as for `forward`.

        Returns:
            (B, N, G), at least 0, in the units in which the class rounds or compares. Infinite by default.
        """
        return h.new_full((*h.shape[:2], self.tokens_per_position), math.inf)

    def soften(self, x: Tensor, z: Tensor) -> Tensor:
        """Return what the decoder sees in training: z, or a point between x and z if `hardness` is below 1.

        Args:
            x: vectors before quantization, in the space of the codewords.
            z: the codewords, with the gradient of x.
        """
        return z if self.hardness >= 1.0 or not self.training else z + (1 - self.hardness) * (x - z).detach()

    @abstractmethod
    def dequantize(self, ids: Tensor) -> Tensor:
        """Implement `lookup` for int64 ids (B, N, G) that are in range."""


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast. An exported graph has none, and some of its formats cannot contain such a region."""
    return nullcontext() if torch.compiler.is_exporting() else torch.autocast(device.type, enabled=False)
