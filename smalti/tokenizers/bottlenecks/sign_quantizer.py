"""Codes that are signs: their packing into integers, and what every quantizer made of them shares.

Shapes: B batch, N positions, G groups (tokens) a position.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.distributed import mean_over_ranks
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer, straight_through
from smalti.tokenizers.bottlenecks.entropy import codebook_entropy, mean_distribution, token_entropy
from smalti.types import Code


def pack_bits(bits: Tensor) -> Tensor:
    """(..., up to 63) bool to (...) int64: the first bit is the lowest."""
    places = torch.arange(bits.shape[-1], device=bits.device)
    return (bits.long() << places).sum(dim=-1)


def unpack_bits(ids: Tensor, bits: int) -> Tensor:
    """The inverse of `pack_bits`: (...) int64 in [0, 2^bits) to (..., bits) bool."""
    places = torch.arange(bits, device=ids.device)
    return (ids.unsqueeze(-1) >> places & 1).bool()


class SignQuantizer(Quantizer):
    """Groups of channels, each coded by its channels' signs: one token a group, lookup-free.

    Channels are group-major, (group, bit); a bit is set where its channel is above 0, and the first channel of a group is
    the lowest bit of its id. Gradients go straight through.

    Losses, in training mode alone (in evaluation nothing is trained by them, and their memory would be for nothing), each
    over the global batch where torch.distributed is initialised (`mean_over_ranks`):
        token_entropy: mean entropy of a group's soft code over batch, positions and groups, in nats.
        codebook_entropy: entropy of the mean soft code, as the subclass says, in nats. It is to rise: weigh it negatively.
        commitment: mean squared distance between what is coded and its code.

    Args:
        groups: tokens a position.
        bits: bits a token.
        temperature: of the soft codes p(c) = softmax(2 x.c / temperature) that the entropies are of.
        scale: the magnitude of a code's channels.
        most_bits: the most that the subclass takes.
        advice: what to do with more bits than that, as the end of a sentence.

    Raises:
        SmaltiError: `groups` or `temperature` is not positive, or `bits` not in [1, most_bits].
    """

    def __init__(self, groups: int, bits: int, temperature: float, scale: float, most_bits: int, advice: str) -> None:
        super().__init__()
        name = type(self).__name__
        if groups < 1 or bits < 1 or temperature <= 0:
            raise SmaltiError(
                f"{name} needs at least one group, one bit and a positive temperature, "
                f"not groups={groups}, bits={bits}, temperature={temperature}."
            )
        if bits > most_bits:
            raise SmaltiError(f"{name} takes up to {most_bits} bits a token, not {bits}: {advice}.")
        self.groups = groups
        self.bits = bits
        self.temperature = temperature
        self.scale = scale
        self.codebook_size = 2**bits
        self.tokens_per_position = groups
        self.in_dim = self.out_dim = groups * bits

    def quantize(self, h: Tensor) -> Code:
        """(B, N, G bits) to z of the same shape, of channels +-scale, and ids (B, N, G)."""
        x = self.placed(h.unflatten(-1, (self.groups, self.bits)))
        signs = x > 0
        quantized = self._values(signs, x.dtype)
        z = straight_through(x, quantized).flatten(-2)
        return Code(z, pack_bits(signs), self._losses(x, quantized) if self.training else {})

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, G) to (B, N, G bits)."""
        return self._values(unpack_bits(ids, self.bits), torch.float32).flatten(-2)

    def placed(self, x: Tensor) -> Tensor:
        """(B, N, G, bits) to where the codes lie; here, as it is."""
        return x

    @abstractmethod
    def books(self, logits: Tensor) -> Tensor:
        """Choose what the codebook entropy is of.

        Args:
            logits: (B N, G, bits).

        Returns:
            (books, factors, tokens, bits): the entropy is that of the mean over the tokens, summed over factors that are
            taken for independent, averaged over the books.
        """

    def book_entropy(self, distribution: Tensor) -> Tensor:
        """(..., codes) to (...): exact."""
        return codebook_entropy(distribution)

    def _values(self, signs: Tensor, dtype: torch.dtype) -> Tensor:
        return (signs.to(dtype) * 2 - 1) * self.scale

    def _losses(self, x: Tensor, quantized: Tensor) -> dict[str, Tensor]:
        logits = x * (4 * self.scale / self.temperature)
        token, commitment, distribution = mean_over_ranks(
            token_entropy(logits).mean(),
            F.mse_loss(x, quantized),
            mean_distribution(self.books(logits.flatten(0, 1))),
        )
        codebook = self.book_entropy(distribution).sum(dim=1).mean()
        return {"token_entropy": token, "codebook_entropy": codebook, "commitment": commitment}
