"""Autoencoders in folders of Hugging Face's diffusers, computed by diffusers: `smalti.load("diffusers:PATH_OR_HUB_ID")`.

`smalti import diffusers` converts two video classes to networks of Smalti, which stream and need no diffusers. This module
runs every supported class as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from smalti.errors import MissingExtraError, SmaltiError
from smalti.files import sha256
from smalti.tokenizers.bottlenecks import FSQ, KL, Bottleneck, Identity
from smalti.tokenizers.checkpoints import DIFFUSERS
from smalti.tokenizers.importers.published import ImportReport, import_published
from smalti.tokenizers.importers.registry import find_family as import_family
from smalti.tokenizers.models.diffusers.decoder import DiffusersDecoder
from smalti.tokenizers.models.diffusers.encoder import DiffusersEncoder
from smalti.tokenizers.models.diffusers.families import PublishedConfig, find_class, find_family, full_config
from smalti.tokenizers.models.diffusers.weights import split_weights
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.tokenizers.weight_files import read_safetensors

CONFIG = "config.json"
_SUBFOLDER = "vae"
"""Where the folder of a pipeline has its autoencoder."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)*")
_DOWNLOADED = ("config.json", "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model.safetensors.index.json")
_VIDTOK_LEVELS = 8


def load_diffusers(path: str | Path) -> Tokenizer:
    """Load an autoencoder of diffusers as a tokenizer with the outputs of its class.

    Args:
        path: "diffusers:" and a folder (of the autoencoder, or of a pipeline with a subfolder `vae`) or a repository on the
            Hub, such as "diffusers:stabilityai/sdxl-vae".

    Returns:
        The tokenizer in evaluation mode; its bottleneck is a `KL`, `Identity` or `FSQ`.

    Raises:
        SmaltiError: there is no such folder or repository, the class is not supported, a weight is missing or unexpected,
            or diffusers is not installed.
    """
    folder = find_folder(path)
    config = read_config(folder)
    model = _load_model(folder, config)
    config = full_config(model)
    encoder, decoder = DiffusersEncoder(config), DiffusersDecoder(config)
    tokenizer = Tokenizer(encoder, build_bottleneck(config), decoder)
    tokenizer.load_state_dict(split_weights(model.state_dict()), assign=True)
    return tokenizer.eval()


def import_folder(path: str | Path) -> tuple[Tokenizer, ImportReport]:
    """Load an autoencoder of diffusers for an export, and return what happened to every weight.

    Wan 2.1's and LTX-Video's networks become those of Smalti, which stream and need no diffusers. All others remain those
    of their class.

    Raises:
        SmaltiError: see `load_diffusers`.
    """
    folder = find_folder(path)
    config = read_config(folder)
    find_family(config)  # the class is supported
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if files and _has_own_networks(config):
        weights = {key: weight for file in files for key, weight in read_safetensors(file).items()}
        return import_published("diffusers", config, weights)
    tokenizer = load_diffusers(path)
    weights = tokenizer.state_dict()
    return tokenizer, ImportReport(tuple(weights), (), (), sum(weight.numel() for weight in weights.values()))


def _has_own_networks(config: PublishedConfig) -> bool:
    """Return whether Smalti has networks for a configuration."""
    try:
        with torch.device("meta"):
            import_family("diffusers").build(config)
    except SmaltiError:
        return False
    return True


def build_bottleneck(config: PublishedConfig) -> Bottleneck:
    """Return the bottleneck that computes what the class does between `encode` and `decode`."""
    family = find_family(config)
    channels = config[family.channels]
    if family.distribution == "point":
        return Identity(channels)
    if family.distribution == "regularizer" and config["regularizer"] == "fsq":
        return FSQ([_VIDTOK_LEVELS] * channels)
    return KL(channels)


def find_folder(path: str | Path) -> Path:
    """Return the local folder of an autoencoder. A repository of the Hub is downloaded, or taken from the cache.

    Raises:
        SmaltiError: there is no such folder or repository.
    """
    name = str(path).removeprefix(DIFFUSERS)
    local = Path(name)
    if not local.is_dir():
        local = _download(name)
    for folder in (local, local / _SUBFOLDER):
        if (folder / CONFIG).is_file() and "_class_name" in read_config(folder):
            return folder
    raise SmaltiError(
        f"{name} has no {CONFIG} of a diffusers model, and neither has its subfolder '{_SUBFOLDER}': pass the folder of an "
        "autoencoder or of a pipeline."
    )


def read_config(folder: Path) -> PublishedConfig:
    """Read the config.json of a folder.

    Raises:
        SmaltiError: it is no valid JSON dictionary.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SmaltiError(f"{file} is damaged (no valid JSON: {error}): download it again.") from error
    if not isinstance(config, dict):
        raise SmaltiError(f"{file} is damaged (it contains no dictionary): download it again.")
    return config


def fingerprint_diffusers(path: str | Path) -> str:
    """Return the SHA-256 of the weights: of their file, or of the hashes of several files in the order of their names."""
    files = sorted(find_folder(path).glob("diffusion_pytorch_model*.safetensors"))
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def provenance_of_diffusers(path: str | Path) -> dict[str, Any]:
    """Return where a tokenizer comes from: the path, the class and the SHA-256 of the weights."""
    folder = find_folder(path)
    return {
        "source": str(path),
        "class": read_config(folder).get("_class_name"),
        "source_sha256": fingerprint_diffusers(path),
    }


def _download(name: str) -> Path:
    """Return the local folder of a repository of the Hub."""
    if not _HUB_ID.fullmatch(name):
        raise SmaltiError(f"There is no folder {name}: pass diffusers:FOLDER or diffusers:OWNER/REPOSITORY.")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise MissingExtraError("huggingface_hub", "diffusers", "Repositories of the Hub") from error
    owner, repository, *rest = name.split("/")
    subfolder = "/".join(rest)
    patterns = [
        f"{prefix}{pattern}" for prefix in (f"{subfolder}/" if subfolder else "", "vae/") for pattern in _DOWNLOADED
    ]
    try:
        folder = Path(snapshot_download(f"{owner}/{repository}", allow_patterns=patterns))
    except Exception as error:  # the library raises errors of its HTTP client, of the Hub and of the file system
        reason = " ".join(str(error).split()).rstrip(".")
        raise SmaltiError(
            f"There is no folder {name}, and it cannot be downloaded from the Hugging Face Hub ({reason[:200]}): check the "
            "name, the network and your access to the repository."
        ) from error
    return folder / subfolder if subfolder else folder


def _load_model(folder: Path, config: PublishedConfig) -> Any:
    """Load the model of a folder with diffusers. Every weight must be there, and no other.

    Raises:
        SmaltiError: a weight is missing, unexpected or of another shape, or the folder cannot be read.
    """
    cls = find_class(config)
    try:
        with _silent():
            # With accelerate, diffusers would leave missing weights without memory. It initializes and reports them here.
            model, report = cls.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    except Exception as error:  # diffusers raises OSError, RuntimeError, ValueError and errors of safetensors
        reason = " ".join(str(error).split()).rstrip(".")
        raise SmaltiError(
            f"diffusers cannot load {folder} as {config['_class_name']} ({reason[:300]}): check that weights and "
            "config.json belong together, and download them again."
        ) from error
    for problem in ("missing", "unexpected", "mismatched"):
        keys = report.get(f"{problem}_keys")
        if keys:
            key = keys[0] if isinstance(keys[0], str) else keys[0][0]
            raise SmaltiError(
                f"{folder} does not fit its config.json: the weight '{key}' is {problem}"
                f"{f', and {len(keys) - 1} more' if len(keys) > 1 else ''}; check the class {config['_class_name']}, and "
                "download the weights again."
            )
    return model.float() if _is_mixed(model) else model


def _is_mixed(model: Any) -> bool:
    """Return whether the weights have several floating-point types, which the networks could not compute with."""
    return len({weight.dtype for weight in model.parameters() if weight.is_floating_point()}) > 1


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the warnings of diffusers about keys, which become errors here."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
