"""NVIDIA's Cosmos tokenizers (arXiv 2501.03575): images and videos, continuous (CI, CV) and discrete (DI, DV).

The publisher's files are TorchScript modules; the import takes the one of the whole autoencoder, or its state dict. Keys of
the publisher's configuration:

- `name`: "CI", "DI", "CV" or "DV" ("CausalCV" and "CausalDV" in the publisher's code).
- `spatial_compression`, and `temporal_compression` for videos.
- `patch_size` (default 4), `channels` (128), `channels_mult` ([2, 4, 4]), `num_res_blocks` (2).
- `z_channels`: channels around the latents (default 16, 256 for DI); `latent_channels` (16) for CI and CV; `levels` of FSQ
  ([8, 8, 8, 5, 5, 5]) for DI and DV.
"""

from __future__ import annotations

from collections.abc import Iterator

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.bottlenecks.fsq import FSQ
from smalti.tokenizers.bottlenecks.identity import Identity
from smalti.tokenizers.importers.family import Family, PublishedConfig, substitute
from smalti.tokenizers.importers.published_config import check_constants, config_errors
from smalti.tokenizers.models.cosmos.blocks import Level
from smalti.tokenizers.models.cosmos.builder import cosmos
from smalti.tokenizers.models.cosmos.decoder import CosmosDecoder
from smalti.tokenizers.models.cosmos.encoder import CosmosEncoder
from smalti.tokenizers.models.cosmos.resampling import ClipDownsample, ClipUpsample
from smalti.tokenizers.tokenizer import Tokenizer

_CONSTANTS = {
    "attn_resolutions": [32], "dropout": 0.0, "in_channels": 3, "out_channels": 3, "resolution": 1024, "z_factor": 1,
    "patch_method": "haar", "num_groups": 1, "legacy_mode": False, "formulation": "AE", "quantizer": "FSQ",
}  # fmt: skip
_ATTENTION_PATCHES = 32
"""1024 / 32: a level that is downsampled by this factor has attention in the publisher's code. No released one is."""

_RULES = (
    (r"^(encoder|decoder)\.middle\.first\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.middle\.last\.", r"\1.mid.block_2."),
    (r"\.blocks\.", ".block."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.proj\.", ".proj_out."),
    (r"^encoder\.head\.", "quant_conv."),
    (r"^decoder\.head\.", "post_quant_conv."),
)
_IMAGE_RULES = (
    (r"^(encoder|decoder)\.middle\.attention\.", r"\1.mid.attn_1."),
    (r"^encoder\.levels\.(\d+)\.resample\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.levels\.(\d+)\.resample\.", r"decoder.up.\1.upsample."),
)
_VIDEO_RULES = (
    (r"^(encoder|decoder)\.middle\.attention\.", r"\1.mid.attn_1.0."),
    (r"^(encoder|decoder)\.middle\.temporal_attention\.", r"\1.mid.attn_1.1."),
    (r"^encoder\.levels\.(\d+)\.resample\.space\.", r"encoder.down.\1.downsample.conv1."),
    (r"^encoder\.levels\.(\d+)\.resample\.time\.", r"encoder.down.\1.downsample.conv2."),
    (r"^encoder\.levels\.(\d+)\.resample\.out\.", r"encoder.down.\1.downsample.conv3."),
    (r"^decoder\.levels\.(\d+)\.resample\.time\.", r"decoder.up.\1.upsample.conv1."),
    (r"^decoder\.levels\.(\d+)\.resample\.space\.", r"decoder.up.\1.upsample.conv2."),
    (r"^decoder\.levels\.(\d+)\.resample\.out\.", r"decoder.up.\1.upsample.conv3."),
    (r"\.space\.", ".0."),
    (r"\.time\.", ".1."),
    # Norms and convolutions of clips are wrapped in modules of their own.
    (r"(\.norm\d?|\.norm_out)\.(weight|bias)$", r"\1.norm.\2"),
    (r"(?<!norm)\.(weight|bias)$", r".conv3d.\1"),
)
_LEVEL_RULES = (
    (r"^encoder\.levels\.", "encoder.down."),
    (r"^decoder\.levels\.", "decoder.up."),
)
_CONSTANT_BUFFERS: tuple[str, ...] = (
    "encoder.patcher.wavelets", "encoder.patcher._arange", "encoder.patcher3d.wavelets", "encoder.patcher3d._arange",
    "encoder.patcher3d.patch_size_buffer", "decoder.unpatcher.wavelets", "decoder.unpatcher._arange",
    "decoder.unpatcher3d.wavelets", "decoder.unpatcher3d._arange", "quantizer._levels", "quantizer._basis",
    "quantizer.implicit_codebook",
)  # fmt: skip
"""Constants of the publisher's modules, which TorchScript writes to its files."""


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with random weights from Cosmos' configuration.

    Raises:
        SmaltiError: a key is missing, or values describe no model of the family.
    """
    with config_errors("a Cosmos configuration has name, spatial_compression and, for videos, temporal_compression"):
        name = str(config["name"]).removeprefix("Causal")
        if name not in ("CI", "DI", "CV", "DV"):
            raise SmaltiError(f"name is {config['name']!r}, but the tokenizers are CI, DI, CV and DV: correct it.")
        check_constants(config, _CONSTANTS, "Cosmos' models")
        space, patch = int(config["spatial_compression"]), int(config.get("patch_size", 4))
        time = int(config["temporal_compression"]) if name.endswith("V") else 1
        multipliers = list(config.get("channels_mult", [2, 4, 4]))
        if name.endswith("V") and time == 1:
            raise SmaltiError("temporal_compression is 1, but Cosmos' tokenizers of videos have 4 or 8: correct it.")
        if patch * 2 ** (len(multipliers) - 1) >= _ATTENTION_PATCHES:
            raise SmaltiError(
                f"patch_size {patch} and {len(multipliers)} levels would have attention in a level, as no released model "
                "has: correct patch_size and channels_mult."
            )
        bottleneck: Bottleneck
        if name.startswith("D"):
            bottleneck = FSQ(list(config.get("levels", [8, 8, 8, 5, 5, 5])))
            check_constants(config, {"embedding_dim": bottleneck.in_dim}, f"models with the levels {bottleneck.levels}")
        else:
            bottleneck = Identity(int(config.get("latent_channels", 16)))
        return cosmos(
            bottleneck,
            stride=(time, space, space),
            z_channels=int(config.get("z_channels", 256 if name == "DI" else 16)),
            channels=int(config.get("channels", 128)),
            multipliers=multipliers,
            blocks=int(config.get("num_res_blocks", 2)),
            patch=patch,
        )


def keys(tokenizer: Tokenizer) -> dict[str, str]:
    """Return Cosmos' key of each weight of a tokenizer that `build` returned, by name."""
    _, decoder = _networks(tokenizer)
    names = {name: name for name in tokenizer.state_dict()}
    for name in names:
        part, _, rest = name.partition(".levels.")
        if part == "decoder" and rest:  # the publisher numbers the levels of both networks from the pixels
            index, _, rest = rest.partition(".")
            names[name] = f"decoder.levels.{len(decoder.levels) - 1 - int(index)}.{rest}"
    rules = (*_RULES, *(_VIDEO_RULES if decoder.video else _IMAGE_RULES), *_LEVEL_RULES)
    return {name: substitute(published, rules) for name, published in names.items()}


def unused_keys(tokenizer: Tokenizer) -> set[str]:
    """Return the keys that hold nothing that is computed: constants, and convolutions that the publisher never calls.

    Each level of the published networks for clips but the last has three convolutions to change its resolution, also if it
    changes only height and width, or nothing.
    """
    unused: set[str] = set(_CONSTANT_BUFFERS)
    encoder, decoder = _networks(tokenizer)
    if encoder.video:
        last = len(encoder.levels) - 1
        for index, level in enumerate(encoder.levels):
            unused.update(_uncalled(f"encoder.down.{index}.downsample", level, index < last, ("space", "time", "out")))
        for index, level in enumerate(reversed(decoder.levels)):
            unused.update(_uncalled(f"decoder.up.{index}.upsample", level, index > 0, ("time", "space", "out")))
    return unused


def _uncalled(prefix: str, level: object, published: bool, names: tuple[str, str, str]) -> Iterator[str]:
    """Yield the keys of the published convolutions that a level does not call; `names` are those of conv1 to conv3."""
    assert isinstance(level, Level)
    resample = level.resample
    assert resample is None or isinstance(resample, (ClipDownsample, ClipUpsample))
    for number, name in enumerate(names, start=1):
        if published and getattr(resample, name, None) is None:
            yield from (f"{prefix}.conv{number}.conv3d.{kind}" for kind in ("weight", "bias"))


def _networks(tokenizer: Tokenizer) -> tuple[CosmosEncoder, CosmosDecoder]:
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    assert isinstance(encoder, CosmosEncoder)
    assert isinstance(decoder, CosmosDecoder)
    return encoder, decoder


FAMILY = Family(
    name="cosmos",
    description="NVIDIA's Cosmos tokenizers of images and videos",
    build=build,
    keys=keys,
    unused_keys=unused_keys,
)
