"""Steps of the linear start that all families of networks share.

Shapes: B batch; C, O channels; Z channels of the latent; V hidden units; K components; the other axes are positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.tokenizers.layers.frames import video_to_images
from smalti.tokenizers.linear_start.code import StartCode

CODE_RIDGE = 1e-7
"""Ridge parameter of the layer that computes a code. The code is a function of the layer's inputs, without noise."""

Errors = dict[str, float]
"""The share of the variance of its targets that each fitted layer does not explain, by the layer's name."""


def code_targets(code: StartCode, coefficients: Sequence[Tensor]) -> list[Tensor]:
    """Return what the bottleneck expects from an encoder, (B, Z, ...) of each batch.

    Args:
        code: the code.
        coefficients: (B, K or more, ...) of each batch.
    """
    return [code.target(c[:, : code.count].movedim(1, -1)).movedim(-1, 1) for c in coefficients]


def frame_images(clips: Sequence[Tensor]) -> list[Tensor]:
    """Return the frames of clips (B, C, T, H, W) as images (B T, C, H, W)."""
    return [video_to_images(clip) for clip in clips]


def limit_components(available: int, width: int) -> int:
    """Return how many components a layer carries: all, or seven eighths of its channels. The others stay random."""
    return available if available <= width else max(1, width * 7 // 8)


def signed_pair(x: Tensor, width: int) -> Tensor:
    """Return x (B, C, ...) and -x along the channels if a layer of `width` channels has room for both, else x."""
    return torch.cat([x, -x], dim=1) if 2 * x.shape[1] <= width else x[:, :width]


def center_weights(conv: nn.Conv2d) -> Tensor:
    """Return the weights (O, C) at the center of the kernel, as a view."""
    return conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2]


def apply_affine(rows: Tensor, x: Tensor) -> Tensor:
    """Apply affine functions (U, K + 1) to the channels of x (B, K, ...), which gives (B, U, ...)."""
    rows = rows.to(x)
    return torch.einsum("uk, bk... -> bu...", rows[:, :-1], x) + rows[:, -1].view(1, -1, *[1] * (x.ndim - 2))
