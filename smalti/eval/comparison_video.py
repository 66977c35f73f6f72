"""A video that shows originals and reconstructions side by side.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.results import Example

_GRAY = 128


def comparison_video(examples: Sequence[Example]) -> Iterator[Tensor]:
    """Show clips one after another, the original at the left and the reconstruction at the right.

    Clips smaller than the largest one are padded with gray.

    Args:
        examples: at least one clip.

    Yields:
        (3, H, W) uint8, all of one size.
    """
    height, width = (max(example.original.shape[axis] for example in examples) for axis in (2, 3))
    for example in examples:
        for pair in zip(example.original.unbind(1), example.reconstruction.unbind(1), strict=True):
            yield torch.cat([_pad(frame, height, width) for frame in pair], dim=2)


def _pad(frame: Tensor, height: int, width: int) -> Tensor:
    """Center a frame (3, H, W) on gray."""
    vertical, horizontal = height - frame.shape[1], width - frame.shape[2]
    left, top = horizontal // 2, vertical // 2
    return F.pad(frame, (left, horizontal - left, top, vertical - top), value=_GRAY)
