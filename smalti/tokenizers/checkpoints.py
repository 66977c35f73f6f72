"""Saving tokenizers to folders, and loading them from folders and training checkpoints.

An exported folder has three files: `model.safetensors` (the weights), `config.json` (the configuration that builds the
tokenizer, and the SHA-256 of the weights, which is the fingerprint of the tokenizer) and `README.md` (the model card).
Loading needs only torch and safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.files import atomic_write_folder, check_overwrite, sha256
from smalti.tokenizers.configurable import Config, from_config, get_config
from smalti.tokenizers.model_card import model_card
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.tokenizers.weight_files import read_checkpoint, read_safetensors
from smalti.version import __version__

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = "smalti-tokenizer"
FORMAT_VERSION = 1
CHECKPOINT_KEY = "smalti_tokenizer"
"""Where a training checkpoint has the configuration of the tokenizer."""
DIFFUSERS = "diffusers:"
"""Start of a path that names a folder of diffusers, or a repository on the Hugging Face Hub."""
_PREFIX = "tokenizer."
"""Prefix of the tokenizer's weights in a training checkpoint."""


def is_diffusers(path: str | Path) -> bool:
    """Return whether a path names an autoencoder of diffusers: whether it starts with "diffusers:"."""
    return str(path).startswith(DIFFUSERS)


def save(
    tokenizer: Tokenizer, folder: str | Path, *, provenance: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a tokenizer to a folder.

    Files are written atomically, the configuration last. `load` refuses a mix of old and new files.

    Args:
        tokenizer: the tokenizer; its weights keep their data types.
        folder: folder to write; created if it does not exist.
        provenance: how the tokenizer was made, as JSON can represent it; goes into `config.json` and the model card.
        overwrite: whether to overwrite an exported tokenizer.

    Returns:
        The folder.

    Raises:
        SmaltiError: the folder is not empty and must not be overwritten, or cannot be written.
    """
    folder = Path(folder)
    check_overwrite(folder, "an exported tokenizer", CONFIG, overwrite=overwrite)
    with atomic_write_folder(folder, (WEIGHTS, CARD, CONFIG)) as staged:
        save_file(copy_weights(tokenizer.state_dict()), staged / WEIGHTS)
        config = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "smalti": __version__,
            "sha256": sha256(staged / WEIGHTS),
            "tokenizer": get_config(tokenizer),
            "provenance": provenance or {},
        }
        (staged / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (staged / CARD).write_text(model_card(tokenizer, config), encoding="utf-8")
    return folder


def load(path: str | Path, device: str | torch.device = "cpu") -> Tokenizer:
    """Load a tokenizer from an exported folder, a training checkpoint (its averaged weights), or a folder of diffusers.

    Loading is strict: every weight must be present, and no other. Low-rank adapters are merged into the weights.

    Args:
        path: a folder that `save` wrote, a `.ckpt` file of training, or "diffusers:" and a folder of diffusers or the name
            of a repository on the Hugging Face Hub.
        device: device of the tokenizer.

    Returns:
        The tokenizer in evaluation mode, with parameters that do not require gradients. For training, call
        `tokenizer.requires_grad_().train()`.

    Raises:
        SmaltiError: the path does not exist, is damaged, or was not written by Smalti or a supported version of it.
    """
    if is_diffusers(path):
        from smalti.tokenizers.importers.diffusers_folder import load_diffusers

        return load_diffusers(path).requires_grad_(requires_grad=False).to(device)
    path = Path(path)
    config, weights = _read_folder(path) if path.is_dir() else _read_training_checkpoint(path)
    tokenizer = from_config(config)
    if not isinstance(tokenizer, Tokenizer):
        raise SmaltiError(
            f"{path} contains a {type(tokenizer).__name__}, not a tokenizer: export the tokenizer that it is part of."
        )
    _check_weights(path, tokenizer.state_dict(), weights)
    tokenizer.load_state_dict(copy_weights(weights), assign=True)
    from smalti.tokenizers.adapters import merge_adapters  # imports Tokenizer's parts, as this module does

    return merge_adapters(tokenizer).requires_grad_(requires_grad=False).eval().to(device)


def copy_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies of weights on the CPU, each in its own aligned memory.

    Loading needs them because safetensors maps the file into memory, where weights can be unaligned: computing with them is
    slower and rounds differently. Saving needs them because safetensors refuses weights that share memory (tied weights).
    """
    return {name: w.detach().cpu().clone(memory_format=torch.contiguous_format) for name, w in weights.items()}


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of the weights of an exported folder, or of a checkpoint file: 64 hexadecimal digits.

    Raises:
        SmaltiError: the folder is not an exported tokenizer.
    """
    if is_diffusers(path):
        from smalti.tokenizers.importers.diffusers_folder import fingerprint_diffusers

        return fingerprint_diffusers(path)
    path = Path(path)
    return _read_config(path)["sha256"] if path.is_dir() else sha256(path)


def provenance(path: str | Path) -> dict[str, Any]:
    """Return how an exported folder or a checkpoint was made.

    Raises:
        SmaltiError: the path is neither an exported folder nor a checkpoint.
    """
    if is_diffusers(path):
        from smalti.tokenizers.importers.diffusers_folder import provenance_of_diffusers

        return provenance_of_diffusers(path)
    path = Path(path)
    if path.is_dir():
        known = _read_config(path).get("provenance", {})
        # Version 0.1 called the branch of a joint tokenizer its path.
        return {"branch" if key == "path" else key: value for key, value in known.items()}
    checkpoint = read_checkpoint(path)
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": fingerprint(path),
        "step": checkpoint.get("global_step"),
        "epoch": checkpoint.get("epoch"),
        "averaged": "averaging_state" in checkpoint,
    }


def _read_folder(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the configuration and the weights of an exported folder."""
    config = _read_config(folder)
    weights = read_safetensors(folder / WEIGHTS)
    if sha256(folder / WEIGHTS) != config["sha256"]:
        raise SmaltiError(
            f"{folder / WEIGHTS} is not the file that was exported (its SHA-256 differs from that in {CONFIG}): export it "
            "again."
        )
    return config["tokenizer"], weights


def _read_training_checkpoint(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the configuration and the weights of the tokenizer in a training checkpoint."""
    if not path.exists():
        raise SmaltiError(
            f"There is no tokenizer at {path}: pass the path of an exported folder or of a .ckpt file of training."
        )
    if path.name in (WEIGHTS, CONFIG):
        raise SmaltiError(f"{path} is one file of an exported tokenizer: pass its folder, {path.parent}.")
    checkpoint = read_checkpoint(path)
    if CHECKPOINT_KEY not in checkpoint:
        raise SmaltiError(
            f"{path} is a checkpoint, but not of smalti's training: import models of other projects with `smalti import`."
        )
    state = checkpoint.get("state_dict")
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise SmaltiError(f"{path} is damaged (it has no weights): use another checkpoint of the run.")
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    return checkpoint[CHECKPOINT_KEY], weights


def _check_weights(path: Path, expected: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Check that names and shapes of weights are those that the configuration describes."""
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise SmaltiError(f"{path} is incomplete: the weight '{name}' is missing; export it again.")
        if name not in expected:
            raise SmaltiError(
                f"{path} contains a weight '{name}' that its configuration does not describe: export it again."
            )
        if weights[name].shape != expected[name].shape:
            raise SmaltiError(
                f"{path} contains '{name}' of shape {tuple(weights[name].shape)}, but its configuration describes "
                f"{tuple(expected[name].shape)}: export it again."
            )


def _read_config(folder: Path) -> dict[str, Any]:
    """Read and check the `config.json` of an exported folder."""
    file = folder / CONFIG
    if not file.is_file():
        raise SmaltiError(f"{folder} has no {CONFIG}: it is no exported tokenizer.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SmaltiError(f"{file} is damaged (no valid JSON: {error}): export the tokenizer again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise SmaltiError(f"{file} was not written by smalti: import models of other projects with `smalti import`.")
    if config.get("format_version") != FORMAT_VERSION:
        raise SmaltiError(
            f"{file} has format version {config.get('format_version')}, but this smalti ({__version__}) reads version "
            f"{FORMAT_VERSION}: install smalti {config.get('smalti', 'of the version that wrote it')}."
        )
    if not {"tokenizer", "sha256"} <= config.keys():
        raise SmaltiError(f"{file} is damaged (tokenizer or sha256 is missing): export the tokenizer again.")
    return config
