"""The newest checkpoint that can be read: `--ckpt_path last-good`, and what a requeued SLURM job resumes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from smalti.cli.run_folder import CHECKPOINTS, CONFIG, JOB
from smalti.errors import SmaltiError

KEYWORD = "last-good"


def find_last_good(folder: Path) -> Path:
    """Return the newest checkpoint that can be read, and print which one it is and which ones are skipped.

    Among all runs in the folder, this takes the run that has written a checkpoint last; among its checkpoints, the one that
    was written last and can be read.

    Args:
        folder: folder of a run, or a folder with runs in it, at most two levels deep: runs/NAME/version_0.

    Raises:
        SmaltiError: there is no such checkpoint.
    """
    checkpoints = _list_checkpoints(folder)
    if not checkpoints:
        raise SmaltiError(
            f"There is no checkpoint of a run in {folder}: pass --ckpt_path FOLDER/{KEYWORD} with the folder of the run, "
            "or the path of a checkpoint."
        )
    from smalti.tokenizers.weight_files import read_checkpoint  # imports torch

    run = checkpoints[0].parent
    skipped: list[str] = []
    for checkpoint in (file for file in checkpoints if file.parent == run):
        try:
            step = read_checkpoint(checkpoint).get("global_step")
        except SmaltiError as error:
            skipped.append(str(error))
            continue
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            print(
                " ".join([f"Resuming from {checkpoint} (step {step}).", *(f"Skipped: {reason}" for reason in skipped)])
            )
        return checkpoint
    raise SmaltiError(f"No checkpoint in {run} can be read: {' '.join(skipped)}")


def find_requeued(folder: Path) -> Path | None:
    """Return the last good checkpoint of the run that this SLURM job has started before it was requeued.

    Args:
        folder: folder with runs in it, as in `find_last_good`.

    Returns:
        The checkpoint; None outside of SLURM, in a job that starts for the first time, and if it has saved nothing.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or int(os.environ.get("SLURM_RESTART_COUNT") or 0) < 1:
        return None
    for checkpoint in _list_checkpoints(folder):
        run = checkpoint.parent.parent
        if (run / JOB).is_file() and (run / JOB).read_text(encoding="utf-8").strip() == job:
            return find_last_good(run)
    return None


def _list_checkpoints(folder: Path, levels: Sequence[str] = ("", "*/", "*/*/")) -> list[Path]:
    """Return the checkpoints of all runs in a folder, newest first, without links."""
    files = [
        file
        for level in levels
        for file in folder.glob(f"{level}{CHECKPOINTS}/*.ckpt")
        if not file.is_symlink() and not file.name.startswith(".") and (file.parent.parent / CONFIG).is_file()
    ]
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)
