"""Writing training checkpoints atomically, and reading them through a memory map."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from smalti.errors import SmaltiError, find_cause
from smalti.files import PARTIAL_PREFIX, atomic_write
from smalti.tokenizers.weight_files import read_checkpoint


class UnwritableCheckpointError(SmaltiError):
    """A checkpoint cannot be written, for example because the disk is full."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads checkpoints for Lightning.

    Lightning's class serializes a checkpoint in memory, writes it to the temporary folder of the system, and copies it
    from there. A kill, or a full disk, during this copy leaves a half checkpoint. This class writes to a temporary name in
    the same folder, without a copy in memory, and renames the complete file. It reads through a memory map: processes of
    one machine share the pages of the file, and parts that are not used are not read. Paths with a protocol, such as
    s3://, are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UnwritableCheckpointError: it cannot be written. A file that existed under this name is unchanged.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        try:
            with atomic_write(file) as partial, partial.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())  # a rename must not reach the disk before the data
        except (OSError, RuntimeError) as error:
            cause = find_cause(error, OSError)  # torch raises a RuntimeError after an error of the file
            if cause is None:
                raise
            raise UnwritableCheckpointError(
                f"The checkpoint {file} cannot be written ({cause.strerror or cause}), and the checkpoints before it are "
                "kept: free disk space and check the permissions, or choose another folder with --checkpoint.dirpath; "
                "then resume the run."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint. Without `weights_only=False`, no code in the file is run.

        Raises:
            SmaltiError: the file does not exist, is damaged, or contains objects that need code.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, weights_only=weights_only)
        return read_checkpoint(Path(path), weights_only=weights_only is not False)


def remove_partial_files(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote a checkpoint. No other process may write to the folder."""
    for file in folder.glob(f"{PARTIAL_PREFIX}*.ckpt"):
        file.unlink(missing_ok=True)
