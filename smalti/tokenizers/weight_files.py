"""Reading files of weights: torch checkpoints, without running their code, TorchScript and safetensors files."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smalti.errors import SmaltiError


def read_checkpoint(path: Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Read a torch checkpoint to the CPU through a memory map: processes share its pages, and unused parts are not read.

    Files that torch wrote before version 1.6 cannot be mapped and are read completely.

    Args:
        path: the file.
        weights_only: run no code in the file. False only for trusted files.

    Raises:
        SmaltiError: the file does not exist, is damaged, or contains objects that need code.
    """
    if not path.is_file():
        raise SmaltiError(f"There is no file {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch raises this both for damaged files and for files that need code. A damaged archive is no valid zip file.
        if zipfile.is_zipfile(path):
            raise SmaltiError(
                f"{path} contains objects that cannot be loaded without running its code, which smalti does not do: save "
                "its plain state dict to a separate file."
            ) from error
        raise SmaltiError(f"{path} is damaged or is no torch checkpoint.") from error
    except Exception as error:  # the unpickler raises errors of any kind for a damaged file
        raise SmaltiError(f"{path} is damaged or is no torch checkpoint.") from error
    if not isinstance(checkpoint, dict):
        raise SmaltiError(f"{path} contains a {type(checkpoint).__name__}, not a checkpoint with named weights.")
    return checkpoint


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of a TorchScript module (`torch.jit.save`)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a TorchScript module to the CPU. Its program is loaded, but not called.

    Raises:
        SmaltiError: the file is damaged, or this version of torch cannot read its program.
    """
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):  # torch recommends other formats for new files
                warnings.simplefilter("ignore", category)
            module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SmaltiError(
            f"{path} is damaged, or its TorchScript program cannot be read by torch {torch.__version__} ({reason})."
        ) from error
    return dict(module.state_dict())


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file to the CPU. They may be memory-mapped and unaligned.

    Raises:
        SmaltiError: the file does not exist or is damaged.
    """
    if not file.is_file():
        raise SmaltiError(f"There is no file {file}: the tokenizer is incomplete, or the path is wrong.")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise SmaltiError(f"{file} is damaged ({error}): download or export it again.") from error
