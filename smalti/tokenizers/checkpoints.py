"""Saving a tokenizer to a folder, and loading one from a folder or from a training checkpoint.

A folder holds `model.safetensors` (the weights), `config.json` (the recipe that builds the network, and the SHA-256 of
the weights, which is the tokenizer's fingerprint) and `README.md` (the model card). Loading needs torch and safetensors
alone.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.files import atomic_write_folder, check_overwrite
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.model_card import model_card
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.version import __version__

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = "smalti-tokenizer"
FORMAT_VERSION = 1
CHECKPOINT_KEY = "smalti_tokenizer"
"""Where a training checkpoint keeps the tokenizer's recipe."""
_PREFIX = "tokenizer."


def save(
    tokenizer: Tokenizer, folder: str | Path, *, provenance: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a tokenizer to a folder, each file whole, the configuration last; `load` refuses anything in between.

    Args:
        tokenizer: what to write; its weights keep their dtype.
        folder: where to; made where it is missing.
        provenance: what should be remembered of its making (JSON can hold it); goes into `config.json` and the card.
        overwrite: replace a tokenizer that is there.

    Returns:
        The folder.

    Raises:
        SmaltiError: the folder holds something already, or cannot be written.
    """
    folder = Path(folder)
    check_overwrite(folder, "exported tokenizer", CONFIG, overwrite=overwrite)
    with atomic_write_folder(folder, (WEIGHTS, CARD, CONFIG)) as staged:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tokenizer.state_dict().items()}
        # Shared storage (tied weights) cannot be written as it is; a copy each can.
        save_file({name: tensor.clone() for name, tensor in weights.items()}, staged / WEIGHTS)
        config = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "smalti": __version__,
            "sha256": _sha256(staged / WEIGHTS),
            "tokenizer": get_config(tokenizer),
            "provenance": provenance or {},
        }
        (staged / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (staged / CARD).write_text(model_card(tokenizer, config), encoding="utf-8")
    return folder


def load(path: str | Path, device: str | torch.device = "cpu") -> Tokenizer:
    """Load a tokenizer, every weight of it, from an exported folder or a training checkpoint (its averaged weights).

    Args:
        path: a folder that `save` wrote, or a `.ckpt` file of training.
        device: where to put it.

    Returns:
        The tokenizer in evaluation mode.

    Raises:
        SmaltiError: nothing there, damaged, foreign, or from a version of smalti that this one does not know.
    """
    recipe, weights = _read(Path(path))
    tokenizer = from_config(recipe)
    if not isinstance(tokenizer, Tokenizer):
        raise SmaltiError(
            f"{path} holds a {type(tokenizer).__name__}, not a tokenizer: export the tokenizer it is part of."
        )
    expected = tokenizer.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise SmaltiError(f"{path} is incomplete: the weight '{name}' is missing; export it again.")
        if name not in expected:
            raise SmaltiError(
                f"{path} holds a weight '{name}' that its configuration knows nothing of: export it again."
            )
        if weights[name].shape != expected[name].shape:
            raise SmaltiError(
                f"{path} holds '{name}' of shape {tuple(weights[name].shape)}, but its configuration asks for "
                f"{tuple(expected[name].shape)}: export it again."
            )
    tokenizer.load_state_dict(weights, assign=True)
    return tokenizer.requires_grad_(requires_grad=True).eval().to(device)


def fingerprint(path: str | Path) -> str:
    """What identifies the weights of an exported folder or a checkpoint: the SHA-256 of the file, 64 hex digits."""
    path = Path(path)
    return _read_config(path)["sha256"] if path.is_dir() else _sha256(path)


def provenance(path: str | Path) -> dict[str, Any]:
    """What is known of the making of an exported folder or a checkpoint."""
    path = Path(path)
    if path.is_dir():
        return _read_config(path).get("provenance", {})
    checkpoint = read_checkpoint(path)
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": fingerprint(path),
        "step": checkpoint.get("global_step"),
        "epoch": checkpoint.get("epoch"),
        "averaged": "averaging_state" in checkpoint,
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The recipe and the weights of a folder or a checkpoint."""
    if path.is_dir():
        config = _read_config(path)
        weights = read_safetensors(path / WEIGHTS)
        if _sha256(path / WEIGHTS) != config["sha256"]:
            raise SmaltiError(
                f"{path / WEIGHTS} is not what was exported (its SHA-256 differs from {CONFIG}'s): export it again."
            )
        return config["tokenizer"], weights
    if not path.exists():
        raise SmaltiError(f"There is no tokenizer at {path}: give an exported folder or a .ckpt file of training.")
    if path.name in (WEIGHTS, CONFIG):
        raise SmaltiError(f"{path} is one file of an exported tokenizer: give its folder, {path.parent}.")
    checkpoint = read_checkpoint(path)
    if CHECKPOINT_KEY not in checkpoint:
        raise SmaltiError(
            f"{path} is a checkpoint, but not of smalti's training: bring another project's in with `smalti import`."
        )
    weights = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    return checkpoint[CHECKPOINT_KEY], weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A torch checkpoint, read with `weights_only`: no code of the file is run.

    Raises:
        SmaltiError: missing, damaged, or holding objects that only running code could restore.
    """
    if not path.is_file():
        raise SmaltiError(f"There is no file {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch says here both "damaged" and "needs code"; a damaged zip archive is told apart by its own check.
        if zipfile.is_zipfile(path):
            raise SmaltiError(
                f"{path} holds objects that only running its code could restore, which smalti does not do: "
                "save the plain state dict of it in a file of its own."
            ) from error
        raise SmaltiError(f"{path} is damaged or is no torch checkpoint.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SmaltiError(f"{path} is damaged or is no torch checkpoint.") from error
    if not isinstance(checkpoint, dict):
        raise SmaltiError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint with named weights.")
    return checkpoint


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        SmaltiError: missing or damaged.
    """
    if not file.is_file():
        raise SmaltiError(f"There is no file {file}: the tokenizer is not whole, or the path is wrong.")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise SmaltiError(f"{file} is damaged ({error}): fetch or export it again.") from error


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise SmaltiError(f"{folder} holds no {CONFIG}: it is no exported tokenizer.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SmaltiError(f"{file} is damaged (no JSON: {error}): export the tokenizer again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise SmaltiError(f"{file} was not written by smalti: bring another project's model in with `smalti import`.")
    if config.get("format_version") != FORMAT_VERSION:
        raise SmaltiError(
            f"{file} is of format version {config.get('format_version')}, and this smalti ({__version__}) reads "
            f"{FORMAT_VERSION}: install smalti {config.get('smalti', 'of the same age')}."
        )
    if not {"tokenizer", "sha256"} <= config.keys():
        raise SmaltiError(f"{file} is damaged (tokenizer or sha256 is missing): export the tokenizer again.")
    return config


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
