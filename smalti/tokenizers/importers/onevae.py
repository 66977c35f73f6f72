"""OneVAE's released video tokenizers (arXiv 2508.09857).

Keys of the publisher's configuration: `arch` ("vae888", "vae81616_hybrid", ...; a hybrid has a separate grid for the first
frame), `params` (the keys of Wan2.1, see `wan`), `levels` (of FSQ) and `num_codebooks` (tokens per position).
"""

from __future__ import annotations

from smalti.tokenizers.bottlenecks.fsq import FSQ
from smalti.tokenizers.bottlenecks.joint import Joint
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.importers import wan
from smalti.tokenizers.importers.family import (
    LIT_EMA_STATE,
    Family,
    PublishedConfig,
    lit_ema_key,
    map_names,
    substitute,
)
from smalti.tokenizers.importers.published_config import config_errors
from smalti.tokenizers.tokenizer import Tokenizer

_BOTTLENECK_RULES = (
    (r"^bottleneck\.discrete\.down\.", "quant_conv."),
    (r"^bottleneck\.discrete\.up\.", "post_quant_conv."),
)

_FIRST_FRAME_RULES = (
    (r"^decoder\.first_to_latent\.", "decoder.downsample_highres_first.resample.1."),
    (r"^decoder\.first_to_frame\.", "decoder.upsample_highres.resample."),
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with both branches and random weights from OneVAE's configuration.

    Raises:
        SmaltiError: a key is missing, or a value describes no model of the family.
    """
    with config_errors("a OneVAE configuration has arch, params, levels and num_codebooks"):
        arch, params = str(config["arch"]), config["params"]
        levels, tokens = list(config["levels"]), int(config["num_codebooks"])
        z = int(params["z_dim"])
    joint = Joint(KL(z), Projected(FSQ(levels, tokens), dim=z, in_dim=2 * z))
    return wan.build_tokenizer(params, joint, first_frame=arch.endswith("hybrid"))


def to_published_key(name: str) -> str:
    """Return OneVAE's key of a weight."""
    if name.startswith("bottleneck."):
        return substitute(name, _BOTTLENECK_RULES)
    return "model." + wan.to_published_key(substitute(name, _FIRST_FRAME_RULES))


FAMILY = Family(
    name="onevae",
    description="OneVAE's joint continuous and discrete video tokenizers",
    build=build,
    keys=map_names(to_published_key),
    # Statistics and networks that are used in training only, and the state of the moving average.
    ignored_prefixes=("codebook_used", "loss.", *LIT_EMA_STATE),
    ema_key=lit_ema_key,
)
