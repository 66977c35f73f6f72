"""The encoder of an autoencoder of diffusers.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C latent channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.layers.frames import images_to_video, video_to_images
from smalti.tokenizers.models.diffusers.cached_frames import encode_frames
from smalti.tokenizers.models.diffusers.families import (
    PublishedConfig,
    build_model,
    clear_causal_caches,
    find_family,
)


class DiffusersEncoder(Encoder):
    """The encoder of an autoencoder of diffusers, with its `quant_conv`.

    The modules are those of diffusers; `forward` calls them as the `encode` of the class does, without tiles, slices and
    frame-wise paths, which change the result. What the class drops or refuses is padded before: rows and columns up to the
    stride, and frames up to 1 + k * stride (`Tokenizer` pads and trims).

    Networks for images encode each frame separately and stream. All others encode a clip at once (`streams` is False):
    the caches of Wan's class and the norms of HunyuanVideo's over time need the whole clip.

    Args:
        config: the content of diffusers' config.json, with `_class_name`.

    Raises:
        SmaltiError: see `build_model`; or the network does not take RGB pixels.
    """

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        model = build_model(config)
        family = find_family(config)
        self.config = config
        self.stride = family.stride(model)
        self.streams = family.frames == "images"
        self.network: nn.Module = model.encoder
        self.quant_conv: nn.Module | None = getattr(model, "quant_conv", None)
        self._frames, self._batched = family.frames, family.batched
        self.bands_inside = model.config.get("patch_type") == "haar"  # Cosmos
        self._patch = model.config.get("patch_size") if family.frames == "cached" else None
        channels = model.config[family.channels]
        doubled = family.distribution == "gaussian" or model.config.get("regularizer") == "kl"
        self.out_dim = 2 * channels if doubled else channels
        expected = 3 * (self._patch or 1) ** 2
        if model.config[family.input_channels] != expected:
            raise SmaltiError(
                f"This {config['_class_name']} has {model.config[family.input_channels]} input channels, but an RGB image "
                f"has {expected} here: use a network for RGB images."
            )

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, 3, T, H, W) in [-1, 1] to one grid: (B, 2 C, t, h, w) with log-variances, or (B, C, t, h, w)."""
        if self._frames == "images":
            h = self._finish(self.network(video_to_images(x)))
            return (images_to_video(h, x.shape[0]),)  # len(x) would fix the batch of an exported program
        if self._frames == "cached":
            return (self._finish(encode_frames(self.network, x, self._patch)),)
        if self._frames == "repeated":
            front = x[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1)
            h = self._finish(self.network(torch.cat([front, x], dim=2)))
            clear_causal_caches(self.network)
            return (h,)
        samples = [x] if self._batched else x.split(1)
        return (torch.cat([self._finish(self.network(sample)) for sample in samples]),)

    def _finish(self, h: Any) -> Tensor:
        return h if self.quant_conv is None else self.quant_conv(h)
