"""Frame by frame through the networks of Wan and Qwen-Image, which keep earlier frames in a list of the caller.

The classes of diffusers store this list in the module, so that two clips cannot be encoded at the same time. Here it
belongs to the call.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C channels.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FRAMES_PER_LATENT = 4


def encode_frames(network: nn.Module, x: Tensor, patch: int | None) -> Tensor:
    """Encode a clip: its first frame, then four frames at a time.

    Args:
        network: the encoder of the class.
        x: (B, 3, T, H, W) with T = 1 + 4 k.
        patch: height and width of the patches that become channels first; None: none.

    Returns:
        (B, C, 1 + k, h, w).
    """
    if patch is not None:
        x = _patches_to_channels(x, patch)
    cache = _new_cache(network)
    parts = [x[:, :, :1], *x[:, :, 1:].split(_FRAMES_PER_LATENT, dim=2)] if x.shape[2] > 1 else [x]
    return torch.cat([network(part, feat_cache=cache, feat_idx=[0]) for part in parts], dim=2)


def decode_frames(network: nn.Module, z: Tensor, patch: int | None) -> Tensor:
    """Decode one latent frame at a time. The values are not clamped to [-1, 1], as those of the classes are.

    Args:
        network: the decoder of the class.
        z: (B, C, t, h, w), after `post_quant_conv`.
        patch: see `encode_frames`.

    Returns:
        (B, 3, T, H, W).
    """
    cache = _new_cache(network)
    # Wan's decoder takes an argument that marks the first chunk. Qwen-Image's decoder does not.
    marks_first = "first_chunk" in inspect.signature(network.forward).parameters
    frames: list[Tensor] = []
    for index, part in enumerate(z.split(1, dim=2)):
        first: dict[str, Any] = {"first_chunk": True} if marks_first and index == 0 else {}
        frames.append(network(part, feat_cache=cache, feat_idx=[0], **first))
    pixels = torch.cat(frames, dim=2)
    return pixels if patch is None else _channels_to_patches(pixels, patch)


def _new_cache(network: nn.Module) -> list[Any]:
    """Return an empty cache with one entry per causal convolution, which count themselves."""
    return [None] * sum(type(module).__name__.endswith("CausalConv3d") for module in network.modules())


def _patches_to_channels(x: Tensor, patch: int) -> Tensor:
    """Map (B, C, T, H, W) to (B, C p p, T, H / p, W / p). Within a channel, columns of a patch come before its rows."""
    b, c, t, h, w = x.shape
    x = x.view(b, c, t, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 6, 4, 2, 3, 5).reshape(b, c * patch * patch, t, h // patch, w // patch)


def _channels_to_patches(x: Tensor, patch: int) -> Tensor:
    """Invert `_patches_to_channels`."""
    swapped = x.unflatten(1, (-1, patch, patch)).transpose(2, 3).flatten(1, 3)
    frames = swapped.transpose(1, 2).flatten(0, 1)
    return F.pixel_shuffle(frames, patch).unflatten(0, (len(x), -1)).transpose(1, 2)
