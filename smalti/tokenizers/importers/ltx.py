"""LTX-Video's released video VAEs (arXiv 2501.00103), in a file of their own or of the whole pipeline.

Keys of the publisher's configuration (under `vae` in that of a pipeline): `latent_channels`, `patch_size`, `blocks`, or
`encoder_blocks` and `decoder_blocks` (default: those of 0.9.0), `base_channels`, or `encoder_base_channels` and
`decoder_base_channels` (default 128), `causal_decoder`, `timestep_conditioning`, `spatial_padding_mode` and
`latent_log_var`.
"""

from __future__ import annotations

from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.importers.family import Family, PublishedConfig, map_names, substitute
from smalti.tokenizers.importers.published_config import check_constants, config_errors
from smalti.tokenizers.models.ltx.block_specs import BlockList
from smalti.tokenizers.models.ltx.builder import DENOISING_OPTIONS
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.tokenizer import Tokenizer

LATENT_STATISTICS = ("decoder.statistics.mean", "decoder.statistics.std")
"""Statistics of the latents. They are no part of the networks' state dict, so a checkpoint may lack them."""

_CONSTANTS = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "norm_layer": "pixel_norm",
    "patch_size_t": 1,
    "use_quant_conv": False,
    "normalize_latent_channels": False,
}

_RULES = (
    (r"^decoder\.statistics\.mean$", "per_channel_statistics.mean-of-means"),
    (r"^decoder\.statistics\.std$", "per_channel_statistics.std-of-means"),
    (r"^decoder\.time\.", "decoder.last_time."),
    (r"^decoder\.table$", "decoder.last_scale_shift_table"),
    (r"^decoder\.time_scale$", "decoder.timestep_scale_multiplier"),
    (r"\.blocks\.(\d+)\.blocks\.", r".blocks.\1.res_blocks."),
    (r"^encoder\.blocks\.", "encoder.down_blocks."),
    (r"^decoder\.blocks\.", "decoder.up_blocks."),
    (r"time\.linear(\d)\.", r"time_embedder.timestep_embedder.linear_\1."),
    (r"\.table$", ".scale_shift_table"),
    (r"\.noise(\d)\.scale$", r".per_channel_scale\1"),
    (r"\.strided\.", "."),
    (r"\.shortcut_norm\.", ".norm3.norm."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with random weights from LTX-Video's configuration.

    Raises:
        SmaltiError: a key is missing, or a value describes no model of the family.
    """
    config = config.get("vae", config)
    check_constants(config, _CONSTANTS, "LTX-Video's models")
    with config_errors("the configuration of an LTX-Video VAE has latent_channels"):
        dim, patch = int(config["latent_channels"]), int(config.get("patch_size", 4))
        base, blocks = int(config.get("base_channels", 128)), config.get("blocks")
        channels = [int(config.get(f"{part}_base_channels", base)) for part in ("encoder", "decoder")]
        block_lists = [_read_blocks(config.get(f"{part}_blocks", blocks)) for part in ("encoder", "decoder")]
        log_variance = config.get("latent_log_var", "uniform")
        padding = config.get("spatial_padding_mode", "zeros")
    if log_variance not in ("uniform", "per_channel"):
        raise SmaltiError(f"latent_log_var is {log_variance!r}, but only 'uniform' and 'per_channel' are supported.")
    if padding not in ("zeros", "replicate"):
        raise SmaltiError(f"spatial_padding_mode is {padding!r}, but only 'zeros' and 'replicate' are supported.")
    bottleneck = KL(dim, shared_log_variance=log_variance == "uniform")
    return Tokenizer(
        LTXEncoder(bottleneck.in_dim, channels[0], block_lists[0], patch, padding),
        bottleneck,
        LTXDecoder(
            dim,
            channels[1],
            block_lists[1],
            patch,
            causal=bool(config.get("causal_decoder", False)),
            padding=padding,
            **(DENOISING_OPTIONS if config.get("timestep_conditioning") else {}),
        ),
    )


def to_published_key(name: str) -> str:
    """Return LTX-Video's key of a weight."""
    return substitute(name, _RULES)


def _read_blocks(blocks: Any) -> BlockList | None:
    """Convert the publisher's list of blocks.

    It may have an integer instead of options: the number of layers, which only res_x uses.
    """
    if blocks is None:
        return None
    converted: BlockList = []
    for name, options in blocks:
        if isinstance(options, int):
            options = {"num_layers": options} if name == "res_x" else {}
        converted.append([name, dict(options)])
    return converted


FAMILY = Family(
    name="ltx",
    description="LTX-Video's video VAEs",
    build=build,
    keys=map_names(to_published_key),
    # Statistics that no computation uses. The second prefix also covers mean-of-stds_over_std-of-means.
    ignored_prefixes=("per_channel_statistics.channel", "per_channel_statistics.mean-of-stds"),
    optional=LATENT_STATISTICS,
    prefix="vae.",
)
