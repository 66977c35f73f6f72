"""Published autoencoders: how to build each with the widths of its release, without its weights.

Arguments of diffusers' classes that are not given are the defaults of diffusers 0.42, which are those of the release. The
tokenizers of WeTok, BitDance, UniWeTok, OneVAE and LTX-Video are those of the recipes in configs/; those of Cosmos that
diffusers does not have are built as `smalti import cosmos` builds them. Releases whose networks have the same shapes share
an entry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from smalti.cli.build_tokenizer import build_tokenizer
from smalti.tokenizers.importers import find_family
from smalti.tokenizers.importers.diffusers_folder import build_bottleneck
from smalti.tokenizers.models.diffusers import DiffusersDecoder, DiffusersEncoder
from smalti.tokenizers.models.diffusers.families import find_class
from smalti.tokenizers.tokenizer import Tokenizer

Medium = Literal["image", "video"]


@dataclass(frozen=True)
class PublishedAutoencoder:
    """A published autoencoder.

    Attributes:
        name: names of its releases.
        medium: what it is made for.
        origin: the class of diffusers, or the recipe.
        build: returns its tokenizer with random weights.
        on_meta: whether `build` works under `torch.device("meta")`, where weights take no memory.
    """

    name: str
    medium: Medium
    origin: str
    build: Callable[[], Tokenizer]
    on_meta: bool = True

    def build_without_memory(self) -> Tokenizer:
        """Return the tokenizer on the meta device, for counts."""
        if not self.on_meta:
            return self.build().to("meta").eval()
        with torch.device("meta"):
            return self.build().eval()


def _diffusers(name: str, medium: Medium, cls: str, *, on_meta: bool = True, **arguments: Any) -> PublishedAutoencoder:
    """Return an autoencoder of diffusers, given its class and the arguments that differ from its defaults."""

    def build() -> Tokenizer:
        parameters = inspect.signature(find_class({"_class_name": cls}).__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        config = {"_class_name": cls, **defaults, **arguments}
        return Tokenizer(DiffusersEncoder(config), build_bottleneck(config), DiffusersDecoder(config))

    return PublishedAutoencoder(name, medium, cls, build, on_meta)


def _recipe(name: str, medium: Medium, recipe: str) -> PublishedAutoencoder:
    """Return the tokenizer of a recipe."""
    return PublishedAutoencoder(name, medium, recipe, lambda: build_tokenizer(recipe))


def _cosmos(release: str, medium: Medium, **config: Any) -> PublishedAutoencoder:
    """Return a tokenizer of Cosmos that diffusers does not have, given the configuration that `smalti import` takes."""
    return PublishedAutoencoder(f"Cosmos {release}", medium, "cosmos", lambda: find_family("cosmos").build(config))


def _stable_diffusion(name: str, channels: int, *, convolution: bool) -> PublishedAutoencoder:
    """Return an autoencoder of the Stable Diffusion family.

    Args:
        name: names of its releases.
        channels: latent channels.
        convolution: whether a 1x1 convolution follows the encoder, and another one precedes the decoder.
    """
    return _diffusers(
        name,
        "image",
        "AutoencoderKL",
        latent_channels=channels,
        block_out_channels=[128, 256, 512, 512],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        use_quant_conv=convolution,
        use_post_quant_conv=convolution,
    )


def _dc_ae() -> PublishedAutoencoder:
    """Return DC-AE f32c32 as Sana 1.0 uses it: three stages of residual blocks, then three with linear attention."""
    arguments: dict[str, Any] = {
        "latent_channels": 32,
        "upsample_block_type": "interpolate",
        "downsample_block_type": "conv",
    }
    for part in ("encoder", "decoder"):
        arguments[f"{part}_block_types"] = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
        arguments[f"{part}_block_out_channels"] = [128, 256, 512, 512, 1024, 1024]
        arguments[f"{part}_qkv_multiscales"] = [[], [], [], [5], [5], [5]]
    arguments["encoder_layers_per_block"] = [2, 2, 2, 3, 3, 3]
    arguments["decoder_layers_per_block"] = [3, 3, 3, 3, 3, 3]
    return _diffusers("DC-AE f32c32 (Sana)", "image", "AutoencoderDC", **arguments)


def _wan_5b() -> PublishedAutoencoder:
    """Return the autoencoder of Wan 2.2 TI2V-5B. The other models of Wan 2.2 have that of Wan 2.1."""
    return _diffusers(
        "Wan 2.2 TI2V-5B",
        "video",
        "AutoencoderKLWan",
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        dim_mult=[1, 2, 4, 4],
        temperal_downsample=[False, True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    )


AUTOENCODERS: tuple[PublishedAutoencoder, ...] = (
    _stable_diffusion("SD 1.5, SDXL", 4, convolution=True),
    _stable_diffusion("SD 3.5, FLUX.1", 16, convolution=False),
    _diffusers("FLUX.2", "image", "AutoencoderKLFlux2"),
    _dc_ae(),
    _cosmos("CI8x8", "image", name="CI", spatial_compression=8, patch_size=2),
    _cosmos("CI16x16", "image", name="CI", spatial_compression=16, patch_size=2),
    _cosmos("DI8x8", "image", name="DI", spatial_compression=8, patch_size=2),
    _cosmos("DI16x16", "image", name="DI", spatial_compression=16, patch_size=2),
    _recipe("WeTok f8", "image", "wetok/f8.yaml"),
    _recipe("WeTok f8, 24x", "image", "wetok/f8_cr24.yaml"),
    _recipe("WeTok f16, BitDance d16c32", "image", "wetok/f16.yaml"),
    _recipe("WeTok f32", "image", "wetok/f32.yaml"),
    _recipe("WeTok f32, generative decoder", "image", "wetok/f32_generative.yaml"),
    _recipe("BitDance d32c128", "image", "wetok/bitdance_d32c128.yaml"),
    _recipe("BitDance d32c256", "image", "wetok/bitdance_d32c256.yaml"),
    _recipe("UniWeTok f32", "image", "uniwetok/f32.yaml"),
    _diffusers("Wan 2.1, Qwen-Image", "video", "AutoencoderKLWan"),
    _wan_5b(),
    _diffusers("HunyuanVideo", "video", "AutoencoderKLHunyuanVideo"),
    _diffusers("HunyuanVideo 1.5", "video", "AutoencoderKLHunyuanVideo15"),
    _diffusers("Cosmos CV8x8x8", "video", "AutoencoderKLCosmos", on_meta=False),
    _diffusers(
        "Cosmos CV4x8x8", "video", "AutoencoderKLCosmos", temporal_compression_ratio=4, patch_size=2, on_meta=False
    ),
    _cosmos("DV4x8x8", "video", name="DV", spatial_compression=8, temporal_compression=4, patch_size=2, z_channels=256),
    _cosmos("DV8x16x16", "video", name="DV", spatial_compression=16, temporal_compression=8),
    _diffusers("LTX-Video 0.9.0", "video", "AutoencoderKLLTXVideo"),
    # VidTok's class computes with its constants when it is built.
    _diffusers("VidTok KL 4x8x8, 4 channels", "video", "AutoencoderVidTok", on_meta=False),
    _diffusers(
        "VidTok FSQ 4x8x8, 262,144",
        "video",
        "AutoencoderVidTok",
        on_meta=False,
        z_channels=6,
        double_z=False,
        regularizer="fsq",
    ),
    _recipe("LTX-Video 0.9.0 in Smalti", "video", "ltx/v090.yaml"),
    _recipe("LTX-Video 0.9.1 in Smalti", "video", "ltx/v091.yaml"),
    _recipe("LTX-Video 0.9.5 in Smalti", "video", "ltx/v095.yaml"),
    _recipe("OneVAE 4x8x8 (Wan 2.1 in Smalti)", "video", "onevae/4x8x8.yaml"),
    _recipe("OneVAE 8x8x8", "video", "onevae/8x8x8.yaml"),
    _recipe("OneVAE 8x16x16", "video", "onevae/8x16x16.yaml"),
    _recipe("OneVAE 16x16x16", "video", "onevae/16x16x16.yaml"),
)
"""All entries, images first."""
