"""Tokens, or latents, as a picture. Shapes: t, h, w latent positions; G tokens per position; C channels."""

from __future__ import annotations

import colorsys
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.types import Grids, Latents, TokenGrid

_MIX = 0x9E3779B97F4A7C15 - 2**64
"""Odd multiplier of Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4), as an int64."""

_GAP = 4
"""Pixels between two frames."""


def token_picture(content: TokenGrid | Latents, frames: int = 8, min_size: int = 256) -> Tensor:
    """Return a picture of the first sample: one square per token, the frames next to each other.

    Equal tokens have equal colors, and different tokens almost always different ones. The tokens of a position that has
    several are maps of their own, row by row in a block. Latents show their first three channels, scaled to their range, as
    red, green and blue.

    Args:
        content: tokens or latents.
        frames: maximum number of latent frames; later ones are left out.
        min_size: minimum height of the picture in pixels; each position is enlarged to at least one pixel.

    Returns:
        (3, height, width) uint8.
    """
    if isinstance(content, TokenGrid):
        parts = [_color_ids(ids) for ids in _split(content.ids[0], content.grids)]
    else:
        parts = _color_latents(_split(content.z[0].float(), content.grids))
    images = [frame for part in parts for frame in part][:frames]
    height = max(image.shape[1] for image in images)
    scale = max(1, math.ceil(min_size / height))
    images = [_enlarge(image, scale * (height // image.shape[1])) for image in images]
    gap = torch.full((3, scale * height, _GAP), 255, dtype=torch.uint8)
    pieces = [piece for image in images for piece in (gap, _pad_height(image, scale * height))]
    return torch.cat(pieces[1:], dim=2)


def _split(x: Tensor, grids: Grids) -> list[Tensor]:
    """Split (N, C) into one (t, h, w, C) tensor per grid."""
    parts = x.cpu().split([math.prod(grid) for grid in grids])
    return [part.unflatten(0, grid) for part, grid in zip(parts, grids, strict=True)]


def _color_ids(ids: Tensor) -> Tensor:
    """Map (t, h, w, G) ids to colors (t, 3, rows h, columns w), uint8: a block of G maps, padded with white."""
    hashed = (ids + 1) * _MIX
    bits = [(hashed >> shift) & 0xFFFF for shift in (48, 32, 16)]
    hue, saturation, value = (channel.double() / 0xFFFF for channel in bits)
    colors = torch.tensor(
        [
            colorsys.hsv_to_rgb(h, 0.45 + 0.55 * s, 0.45 + 0.55 * v)
            for h, s, v in zip(*(x.flatten().tolist() for x in (hue, saturation, value)), strict=True)
        ]
    )
    rgb = (colors * 255).round().to(torch.uint8).view(*ids.shape, 3)
    columns = math.ceil(math.sqrt(ids.shape[-1]))
    rows = math.ceil(ids.shape[-1] / columns)
    maps = F.pad(rgb, (0, 0, 0, rows * columns - ids.shape[-1]), value=255).unflatten(3, (rows, columns))
    return maps.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)


def _color_latents(parts: list[Tensor]) -> list[Tensor]:
    """Map (t, h, w, C) latents to colors (t, 3, h, w), uint8, each channel scaled to its 1% and 99% quantiles."""
    values = torch.cat([part.flatten(0, 2)[:, :3] for part in parts])
    if values.shape[1] < 3:
        values = values[:, :1].expand(-1, 3)
        parts = [part[..., :1].expand(*part.shape[:3], 3) for part in parts]
    low, high = (torch.quantile(values[: 2**20], q, dim=0) for q in (0.01, 0.99))
    scaled = [((part[..., :3] - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) for part in parts]
    return [(part * 255).round().to(torch.uint8).permute(0, 3, 1, 2) for part in scaled]


def _enlarge(image: Tensor, scale: int) -> Tensor:
    """Enlarge (3, h, w) by an integer factor without interpolation."""
    return F.interpolate(image[None], scale_factor=scale, mode="nearest")[0] if scale > 1 else image


def _pad_height(image: Tensor, height: int) -> Tensor:
    return F.pad(image, (0, 0, 0, height - image.shape[1]), value=255)
