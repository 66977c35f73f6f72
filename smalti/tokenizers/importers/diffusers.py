"""Video VAEs in the format of Hugging Face's diffusers: `_class_name` in their config.json names the class."""

from __future__ import annotations

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import diffusers_ltx, diffusers_wan
from smalti.tokenizers.importers.family import Family, PublishedConfig
from smalti.tokenizers.importers.ltx import LATENT_STATISTICS
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_CLASSES = {"AutoencoderKLLTXVideo": diffusers_ltx.build, "AutoencoderKLWan": diffusers_wan.build}


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with random weights from the configuration of a class of diffusers.

    Raises:
        SmaltiError: no class is named, the class has no importer, a key is missing, or a value describes no model of the
            class that Smalti supports.
    """
    name = config.get("_class_name")
    if name not in _CLASSES:
        raise SmaltiError(
            f"diffusers' class {name!r} has no importer: the supported classes are {', '.join(sorted(_CLASSES))}."
        )
    return _CLASSES[name](config)


def keys(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the key in diffusers of each weight of a tokenizer that `build` returned, by name."""
    module = diffusers_ltx if isinstance(tokenizer.encoder, LTXEncoder) else diffusers_wan
    return module.keys(tokenizer)


FAMILY = Family(
    name="diffusers",
    description="AutoencoderKLLTXVideo and AutoencoderKLWan of Hugging Face's diffusers",
    build=build,
    keys=keys,
    optional=LATENT_STATISTICS,
)
