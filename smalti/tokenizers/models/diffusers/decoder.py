"""The decoder of an autoencoder of diffusers.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C latent channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.layers.frames import images_to_video, video_to_images
from smalti.tokenizers.models.diffusers.cached_frames import decode_frames
from smalti.tokenizers.models.diffusers.families import (
    FACTORS,
    PARTS,
    PublishedConfig,
    build_model,
    clear_causal_caches,
    find_family,
)


class DiffusersDecoder(Decoder):
    """The decoder of an autoencoder of diffusers, with its `post_quant_conv`.

    See `DiffusersEncoder`. Pixels are not clamped to [-1, 1], as `AutoencoderKLWan.decode` and its relatives do: that would
    stop the gradients of values outside. `Tokenizer` trims frames, rows and columns that were padded.

    Args:
        config: the content of diffusers' config.json, with `_class_name`.
        timestep: timestep for decoders with timestep conditioning (LTX-Video 0.9.1 and later), which diffusers' caller
            passes. Other decoders ignore it.

    Attributes:
        stored: what the class stores besides networks, such as FLUX.2's statistics of the latents, unchanged.

    Raises:
        SmaltiError: see `build_model`.
    """

    def __init__(self, config: PublishedConfig, timestep: float = 0.05) -> None:
        super().__init__()
        model = build_model(config)
        family = find_family(config)
        self.config, self.timestep = config, timestep
        self.in_dim = model.config[family.channels]
        self.streams = family.frames == "images"
        self.generative = any(model.config.get("decoder_inject_noise") or ())
        self.network: nn.Module = model.decoder
        self.post_quant_conv: nn.Module | None = getattr(model, "post_quant_conv", None)
        self._frames, self._batched = family.frames, family.batched
        self.bands_inside = model.config.get("patch_type") == "haar"  # Cosmos
        self._patch = model.config.get("patch_size") if family.frames == "cached" else None
        self._repeated = family.stride(model)[0] - 1
        self._conditioned = bool(model.config.get("timestep_conditioning"))
        for name in PARTS:
            if hasattr(model, name):
                delattr(model, name)
        self.stored = nn.Module()
        for name, module in model.named_children():
            self.stored.add_module(name, module.requires_grad_(requires_grad=False))
        for name, buffer in model.named_buffers(recurse=False):
            self.stored.register_buffer(name, buffer, persistent=name in model.state_dict())

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return [m for m in self.network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))][-1]

    @property
    def last_block(self) -> tuple[str, ...]:
        """Names of the children of `network` that compute the last resolution and the pixels."""
        children = [name for name, child in self.network.named_children() if next(child.parameters(), None) is not None]
        lists = ("up_blocks", "up")
        stages = next((name for name in lists if name in children), None)
        after = [name for name in children if name not in (stages, "conv_in", "mid_block", "mid", "norm_in")]
        if stages is None:
            return tuple(after)
        blocks = [name for name, _ in self.network.get_submodule(stages).named_children()]
        # VidTok numbers its levels from the pixels.
        return (f"{stages}.{blocks[0] if stages == 'up' else blocks[-1]}", *after)

    @property
    def latent_factors(self) -> dict[str, Any]:
        """How a generative model normalizes the latents: `scaling_factor`, `shift_factor`, `latents_mean`, `latents_std`.

        Those that the class has, as numbers or lists, see `FACTORS`. The export to diffusers contains them. They describe
        the published encoder: they remain valid as long as it is frozen.
        """
        stored = {name: buffer.tolist() for name, buffer in self.stored.named_buffers(recurse=False) if name in FACTORS}
        return {name: self.config[name] for name in FACTORS if self.config.get(name) is not None} | stored

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode one grid (B, C, t, h, w) to (B, 3, T, H, W), not clamped."""
        (z,) = latents
        if self._frames == "images":
            return images_to_video(self.network(self._start(video_to_images(z))), z.shape[0])
        z = self._start(z)
        if self._frames == "cached":
            return decode_frames(self.network, z, self._patch)
        if self._frames == "repeated":
            pixels = self.network(z)[:, :, self._repeated :]
            clear_causal_caches(self.network)
            return pixels
        arguments = [z.new_full((z.shape[0],), self.timestep)] if self._conditioned else []
        if not self._batched:
            return torch.cat([self.network(sample) for sample in z.split(1)])
        if not self.generative or generator is None:
            return self.network(z, *arguments)
        # diffusers draws from the global generators only.
        with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            return self.network(z, *arguments)

    def _start(self, z: Any) -> Tensor:
        return z if self.post_quant_conv is None else self.post_quant_conv(z)
