"""Base class of quantizers whose codewords are vectors of signs, and the packing of signs into integer ids.

Shapes: B batch; N positions; G groups, which are tokens, per position.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.distributed import mean_over_ranks
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer
from smalti.tokenizers.bottlenecks.binary_code import binary_start
from smalti.tokenizers.bottlenecks.entropy import codebook_entropy, mean_distribution, token_entropy
from smalti.tokenizers.bottlenecks.gradient_estimators import GradientEstimator, estimate_gradient
from smalti.tokenizers.bottlenecks.thermometer_code import thermometer_start
from smalti.tokenizers.linear_start.code import StartCode
from smalti.types import Code


def pack_bits(bits: Tensor) -> Tensor:
    """Pack (..., up to 63) bool into (...) int64. The first bit is the lowest."""
    return (bits.long() * _place_values(bits.shape[-1], bits.device)).sum(dim=-1)


def unpack_bits(ids: Tensor, bits: int) -> Tensor:
    """Invert `pack_bits`: (...) int64 in [0, 2^bits) to (..., bits) bool."""
    return (ids.unsqueeze(-1) & _place_values(bits, ids.device)) != 0


def _place_values(bits: int, device: torch.device) -> Tensor:
    """Return 2^i for each bit, int64. ONNX has no shifts of int64, but products and `and`."""
    return torch.tensor([1 << i for i in range(bits)], device=device)


class SignQuantizer(Quantizer):
    """Base class of lookup-free quantizers: the signs of a group of channels are the bits of one token.

    Channels are group-major, (group, bit). A bit is set where its channel is greater than 0, and the first channel of a
    group is the lowest bit of its id. Codewords are {-scale, scale}^bits. Gradients are straight-through by default.

    Losses, in training mode, computed over the global batch if a process group exists (`mean_over_ranks`):
        token_entropy: entropy of the soft assignment of a group, in nats, averaged over batch, positions and groups.
        codebook_entropy: entropy of the mean soft assignment, in nats. The subclass defines over which tokens the mean is
            taken. Give this loss a negative weight: the entropy should increase.
        commitment: mean squared distance between the projected input and its codeword.

    Args:
        groups: tokens per position.
        bits: bits per token.
        temperature: temperature T of the soft assignment p(c) = softmax(2 x.c / T) whose entropies are the losses.
        scale: magnitude of the channels of a codeword.
        max_bits: largest number of bits per token that the subclass supports.
        advice: what to do if more bits are needed, for the error message.
        gradient: how gradients pass the signs, see `estimate_gradient`.
        token_bits: cut the bits of a group into tokens of this many bits, for groups whose bits do not fit into one id.
            None: one token per group.

    Raises:
        SmaltiError: `groups` or `temperature` is not positive, the bits per token are not in [1, max_bits], `token_bits`
            does not divide `bits`, or `gradient` is unknown.
    """

    loss_names = ("token_entropy", "codebook_entropy", "commitment")

    def __init__(
        self,
        groups: int,
        bits: int,
        temperature: float,
        scale: float,
        max_bits: int,
        advice: str,
        gradient: GradientEstimator = "straight_through",
        token_bits: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if groups < 1 or bits < 1 or temperature <= 0:
            raise SmaltiError(
                f"{name} needs at least one group, at least one bit and a positive temperature, "
                f"not groups={groups}, bits={bits}, temperature={temperature}."
            )
        if gradient not in get_args(GradientEstimator):
            raise SmaltiError(f"{name} has the gradient '{gradient}': use {', '.join(get_args(GradientEstimator))}.")
        per_token = bits if token_bits is None else token_bits
        if per_token < 1 or bits % per_token:
            raise SmaltiError(f"{name} has {bits} bits per group, which tokens of {per_token} bits do not divide.")
        if per_token > max_bits:
            raise SmaltiError(f"{name} supports up to {max_bits} bits per token, not {per_token}: {advice}.")
        self.gradient: GradientEstimator = gradient
        self.groups = groups
        self.bits = bits
        self.token_bits = per_token
        self.temperature = temperature
        self.scale = scale
        self.codebook_size = 2**per_token
        self.tokens_per_position = groups * bits // per_token
        self.in_dim = self.out_dim = groups * bits

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, G bits) to z of the same shape, with channels +-scale, and ids (B, N, G)."""
        x = self.project(h.unflatten(-1, (self.groups, self.bits)))
        signs = x > 0
        codewords = self._codewords(signs, x.dtype)
        z = self.soften(x, estimate_gradient(x, codewords, self.gradient, self.scale)).flatten(-2)
        tokens = signs.flatten(-2).unflatten(-1, (-1, self.token_bits))
        return Code(z, pack_bits(tokens), self._losses(x, codewords) if self.training else {})

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, G) to their codewords (B, N, G bits)."""
        return self._codewords(unpack_bits(ids, self.token_bits), torch.float32).flatten(-2)

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return how the signs represent principal components: `binary_code` or `thermometer_code`.

        The binary code needs at least two hidden units per sign; with fewer than it would like, it may lose more.
        """
        thermometer = thermometer_start(coefficients, variances, self.in_dim)
        if hidden_units < 2 * self.in_dim:
            return thermometer
        binary = binary_start(coefficients, variances, self.in_dim, hidden_units)
        return min(binary, thermometer, key=lambda code: code.lost)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the smallest magnitude of the projected channels of each token, (B, N, G)."""
        channels = self.project(h.float().unflatten(-1, (self.groups, self.bits))).abs().flatten(-2)
        return channels.unflatten(-1, (-1, self.token_bits)).amin(dim=-1)

    def project(self, x: Tensor) -> Tensor:
        """Project (B, N, G, bits) to the surface on which the codewords lie. The default is the identity."""
        return x

    @abstractmethod
    def split_codebooks(self, logits: Tensor) -> Tensor:
        """Group the logits of a batch by the distributions from which the codebook entropy is computed.

        Args:
            logits: (B N, G, bits).

        Returns:
            (codebooks, factors, tokens, bits). The mean is taken over the tokens. The entropy is summed over the factors,
            which are treated as independent, and averaged over the codebooks.
        """

    def distribution_entropy(self, distribution: Tensor) -> Tensor:
        """Return the entropy of mean distributions, (..., 2^bits) to (...) in nats. The default is exact."""
        return codebook_entropy(distribution)

    def _codewords(self, signs: Tensor, dtype: torch.dtype) -> Tensor:
        return (signs.to(dtype) * 2 - 1) * self.scale

    def _losses(self, x: Tensor, codewords: Tensor) -> dict[str, Tensor]:
        logits = x * (4 * self.scale / self.temperature)
        token, commitment, distribution = mean_over_ranks(
            token_entropy(logits).mean(),
            F.mse_loss(x, codewords),
            mean_distribution(self.split_codebooks(logits.flatten(0, 1))),
        )
        codebook = self.distribution_entropy(distribution).sum(dim=1).mean()
        return {"token_entropy": token, "codebook_entropy": codebook, "commitment": commitment}
