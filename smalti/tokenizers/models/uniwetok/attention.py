"""Attention between the positions of an image.

Shapes: B images; C channels; h, w latent positions; N = 4 + h w tokens; M heads; D = C / M channels per head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.models.uniwetok.positions import Spacing, rotate_pairs, rotation_angles

REGISTERS = 4
"""Learned tokens that take part in the attention and are removed afterwards (arXiv 2309.16588)."""

_EPS = 1e-6
"""Epsilon of the RMS norms."""

_WIDTH_MULTIPLE = 256
"""The width of a feed-forward network is rounded up to a multiple of this."""


class Attention(nn.Module):
    """Self-attention of all tokens of an image, with rotary positions.

    Args:
        channels: C.
        heads: M, a divisor of C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C). Queries and keys are rotated by the angles (N, D / 2)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate_pairs(q, angles), rotate_pairs(k, angles), v)
        return self.out(attended.transpose(1, 2).flatten(-2))


class GatedFeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): silu(a) * b through a linear layer, where (a, b) = linear(x). No biases.

    Args:
        channels: C. The width of a and b is 8 C / 3, rounded up to a multiple of 256.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = -(-(8 * channels // 3) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
        self.gate_and_value = nn.Linear(channels, 2 * width, bias=False)
        self.out = nn.Linear(width, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class RMSNorm(nn.RMSNorm):
    """RMS norm over channels, with the weight in the dtype of the input: under autocast, PyTorch's has no fast path."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., C). The sum is computed in float32."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class AttentionBlock(CheckpointedBlock):
    """A transformer block: x + attention(norm(x)), then x + feed forward(norm(x)).

    Args:
        channels: C.
        heads: M, a divisor of C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(channels, eps=_EPS)
        self.attention = Attention(channels, heads)
        self.feed_forward_norm = RMSNorm(channels, eps=_EPS)
        self.feed_forward = GatedFeedForward(channels)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        x = x + self.attention(self.attention_norm(x), angles)
        return x + self.feed_forward(self.feed_forward_norm(x))


class GridAttention(nn.Module):
    """Attention blocks on a grid: registers and positions, row by row, are the tokens of one sequence.

        (B, C, h, w) -> positions (B, h w, C) -> prepend 4 registers -> blocks -> remove the registers -> (B, C, h, w)

    Args:
        channels: C.
        blocks: number of blocks. With 0, the result is x, and the registers are not used.
        heads: attention heads M; C must be a multiple of 4 M.
        spacing: coordinates of rows and columns.

    Raises:
        SmaltiError: `blocks` is negative, or `heads` does not fit `channels`.
    """

    def __init__(self, channels: int, blocks: int, heads: int, spacing: Spacing) -> None:
        super().__init__()
        if blocks < 0 or heads < 1 or channels % (4 * heads):
            raise SmaltiError(
                f"attention_blocks {blocks} must be at least 0, and the last level must have a multiple of 4 channels per "
                f"head, not {channels} channels for {heads} heads: change attention_heads, channels or multipliers."
            )
        self.head_dim = channels // heads
        self.spacing = spacing
        # Released checkpoints contain registers even if there are no blocks.
        self.registers = nn.Parameter(torch.randn(REGISTERS, channels), requires_grad=blocks > 0)
        self.blocks = nn.ModuleList(AttentionBlock(channels, heads) for _ in range(blocks))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        if not self.blocks:
            return x
        angles = rotation_angles(x, REGISTERS, self.head_dim, self.spacing)
        positions = x.flatten(2).mT
        tokens = torch.cat([self.registers.to(x.dtype).expand(x.shape[0], -1, -1), positions], dim=1)
        for block in self.blocks:
            tokens = block(tokens, angles)
        # Contiguous, as convolutions need it: on a CPU, a transposed view would be copied to another layout several times.
        return tokens[:, REGISTERS:].mT.reshape(x.shape)

    @torch.no_grad()
    def set_to_identity(self) -> None:
        """Set the last layers of all residual branches to zero: the result is then x."""
        for block in self.blocks:
            assert isinstance(block, AttentionBlock)
            block.attention.out.weight.zero_()
            block.feed_forward.out.weight.zero_()


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Initialize linear layers at random: they preserve the variance, and residual branches are small.

    The initialization of the released models is not published.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for module in network.modules():
        if isinstance(module, (Attention, GatedFeedForward)):
            module.out.weight.mul_(0.2)
