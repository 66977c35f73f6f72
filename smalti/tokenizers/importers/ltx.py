"""LTX-Video's released VAEs (arXiv 2501.00103), alone or in a file of the whole pipeline.

The publisher's configuration (of a whole pipeline, its `vae`) has `latent_channels`, `patch_size`, `blocks` or
`encoder_blocks` and `decoder_blocks` (those of 0.9.0 if absent), `base_channels` or `encoder_base_channels` and
`decoder_base_channels` (128), `causal_decoder`, `timestep_conditioning`, `spatial_padding_mode` and `latent_log_var`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.models.ltx.block_specs import BlockList
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.tokenizer import Tokenizer

PREFIX = "vae."
"""Of the VAE's keys in a file of the whole pipeline."""

OPTIONAL = ("decoder.statistics.mean", "decoder.statistics.std")
"""The latent's statistics, which stand beside the network and are no part of its state dict."""

DROPPED = ("per_channel_statistics.channel", "per_channel_statistics.mean-of-stds")
"""Statistics that nothing is computed with; the second name also begins another one's."""

DENOISING = {"timestep": 0.05, "noise": 0.025, "training_noise": [0.0, 0.2]}
"""The time and the noise of a decoder that is the last step of denoising, as published."""

_FIXED = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "norm_layer": "pixel_norm",
    "patch_size_t": 1,
    "use_quant_conv": False,
    "normalize_latent_channels": False,
}
"""What the released models agree on, where the configuration says it at all."""

_RENAMES = (
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


def build(config: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer of the publisher's configuration, with fresh weights.

    Raises:
        SmaltiError: a key that is missing, or a value that describes no model of the family.
    """
    config = config.get("vae", config)
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise SmaltiError(f"{name} is {config[name]!r}, but LTX-Video's models have {value!r}.")
    try:
        dim, patch = int(config["latent_channels"]), int(config.get("patch_size", 4))
        base, blocks = int(config.get("base_channels", 128)), config.get("blocks")
        widths = [int(config.get(f"{part}_base_channels", base)) for part in ("encoder", "decoder")]
        lists = [_blocks(config.get(f"{part}_blocks", blocks)) for part in ("encoder", "decoder")]
        log_variance = config.get("latent_log_var", "uniform")
    except (TypeError, ValueError, AttributeError) as error:
        raise SmaltiError(f"The configuration holds something else than it should ({error}): correct it.") from None
    except KeyError as error:
        raise SmaltiError(f"The configuration has no {error}: an LTX-Video VAE's has latent_channels.") from None
    if log_variance not in ("uniform", "per_channel"):
        raise SmaltiError(f"latent_log_var is {log_variance!r}, but only 'uniform' and 'per_channel' are known.")
    bottleneck = KL(dim, shared_log_variance=log_variance == "uniform")
    padding = config.get("spatial_padding_mode", "zeros")
    if padding not in ("zeros", "replicate"):
        raise SmaltiError(f"spatial_padding_mode is {padding!r}, but only 'zeros' and 'replicate' are known.")
    return Tokenizer(
        LTXEncoder(bottleneck.in_dim, widths[0], lists[0], patch, padding),
        bottleneck,
        LTXDecoder(
            dim,
            widths[1],
            lists[1],
            patch,
            causal=bool(config.get("causal_decoder", False)),
            padding=padding,
            **(DENOISING if config.get("timestep_conditioning") else {}),
        ),
    )


def key(name: str) -> str:
    """The publisher's name of the weight that we call `name`."""
    for ours, theirs in _RENAMES:
        name = re.sub(ours, theirs, name)
    return name


def _blocks(blocks: Any) -> BlockList | None:
    """The publisher's list; a number instead of options is that of layers, which only res_x looks at."""
    if blocks is None:
        return None
    read: BlockList = []
    for name, options in blocks:
        if isinstance(options, int):
            options = {"num_layers": options} if name == "res_x" else {}
        read.append([name, dict(options)])
    return read
