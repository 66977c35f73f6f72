"""Export of continuous tokenizers to Hugging Face's diffusers: the inverse of `smalti.tokenizers.importers.diffusers`.

A folder has two files: `config.json` (the class and its arguments) and `diffusion_pytorch_model.safetensors`. The
`from_pretrained` of the class loads it. Writing does not need diffusers. Before anything is written, the importer rebuilds
the tokenizer from the new configuration, and the two are compared: a network that the class cannot represent is refused and
never written as a different one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from smalti.channel_groups import RGB, describe_groups
from smalti.errors import SmaltiError
from smalti.export.diffusers_config import diffusers_config, published_config, represented_arguments, unsupported
from smalti.files import atomic_write_folder, check_overwrite
from smalti.tokenizers.checkpoints import copy_weights
from smalti.tokenizers.importers.diffusers import FAMILY
from smalti.tokenizers.models.diffusers import DiffusersDecoder, DiffusersEncoder
from smalti.tokenizers.models.diffusers.weights import join_weights
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.version import __version__

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
_STATISTICS = "bottleneck.statistics."
"""Names of the statistics of a KL, which are in the configuration or in the decoder of a class."""


@dataclass(frozen=True)
class DiffusersModel:
    """A tokenizer as a class of diffusers represents it.

    Attributes:
        config: content of `config.json`: the arguments of the class and its name, `_class_name`.
        weights: the weights by their keys in diffusers.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]


def to_diffusers(tokenizer: Tokenizer) -> DiffusersModel:
    """Convert the configuration and the weights of a tokenizer to those of the equivalent class of diffusers.

    LTX-Video's networks with a KL with a shared log-variance become an AutoencoderKLLTXVideo, with the statistics of the
    latents. For a decoder that performs the last denoising step, the timestep and the noise strength are not exported: in
    diffusers, the caller passes them. OneVAE's networks with a KL become an AutoencoderKLWan. Its configuration has the
    statistics of the latents that the bottleneck has measured, else 0 and 1.

    An autoencoder that was loaded from diffusers gets its own class and configuration back, with its latent factors.

    Raises:
        SmaltiError: diffusers has no class for the tokenizer, or the class cannot represent its network or its channels.
    """
    if tokenizer.channels != RGB:
        raise SmaltiError(
            "Folders for diffusers are for red, green and blue, but the tokenizer has the channels "
            f"{describe_groups(tokenizer.channels)}: export it without --format, or as programs."
        )
    if isinstance(tokenizer.encoder, DiffusersEncoder) or isinstance(tokenizer.decoder, DiffusersDecoder):
        return DiffusersModel(published_config(tokenizer), join_weights(tokenizer.state_dict()))
    config = diffusers_config(tokenizer)
    with torch.device("meta"):
        rebuilt = FAMILY.build(config)
    if represented_arguments(rebuilt) != represented_arguments(tokenizer):
        raise unsupported(f"its lists of blocks cannot be expressed as arguments of {config['_class_name']}")
    keys = FAMILY.keys(tokenizer)
    weights = {name: weight for name, weight in tokenizer.state_dict().items() if not name.startswith(_STATISTICS)}
    return DiffusersModel(config, {keys[name]: weight for name, weight in weights.items()})


def save_diffusers(
    tokenizer: Tokenizer, folder: str | Path, *, provenance: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a tokenizer to a folder that diffusers' `from_pretrained` loads.

    Files are written atomically, the configuration last.

    Args:
        tokenizer: see `to_diffusers`; its weights keep their data types.
        folder: folder to write; created if it does not exist.
        provenance: how the tokenizer was made, as JSON can represent it; goes into the metadata of the weights.
        overwrite: whether to overwrite a diffusers model.

    Returns:
        The folder.

    Raises:
        SmaltiError: see `to_diffusers`; or the folder is not empty and must not be overwritten, or cannot be written.
    """
    folder = Path(folder)
    check_overwrite(folder, "a diffusers model", WEIGHTS, overwrite=overwrite)
    model = to_diffusers(tokenizer)
    metadata = {"format": "pt", "smalti": __version__, "provenance": json.dumps(provenance or {})}
    with atomic_write_folder(folder, (WEIGHTS, CONFIG)) as staged:
        save_file(copy_weights(model.weights), staged / WEIGHTS, metadata)
        (staged / CONFIG).write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
        # An interruption must not leave the old configuration next to new weights: it may describe the same shapes.
        (folder / CONFIG).unlink(missing_ok=True)
    return folder
