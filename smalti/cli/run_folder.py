"""The folder of a training run: finding the run of a checkpoint, and the settings of the run.

A run has one folder, also if it is resumed:

    runs/version_0/
      config.yaml                    all settings; config_until_step_N.yaml has those before a change at step N
      checkpoints/                   step=N.ckpt; last.ckpt and best.ckpt, which link to the newest and the best; best.json
      reconstructions/               images and videos of each validation
      events.out.tfevents.*          for TensorBoard
      slurm_job                      number of the SLURM job, by which the job finds its run after it was requeued
"""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
JOB = "slurm_job"


def find_run(checkpoint: str | Path | None) -> Path | None:
    """Return the folder of the run that wrote a checkpoint, or None if the checkpoint is not in the folder of a run.

    Args:
        checkpoint: path of a checkpoint file, absolute or relative.

    Returns:
        FOLDER for FOLDER/checkpoints/NAME.ckpt if FOLDER/config.yaml exists; relative to the current directory if it is
        inside of it, so that messages stay short.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    path = Path(os.path.abspath(checkpoint))  # noqa: PTH100 - resolve() would follow the link last.ckpt
    folder = path.parent.parent
    if path.parent.name != CHECKPOINTS or not (folder / CONFIG).is_file():
        return None
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def write_config(folder: Path, text: str, step: int) -> None:
    """Write the settings of a run to its folder, and keep the previous settings if they differ.

    Args:
        folder: folder of the run; created if it does not exist.
        text: settings as YAML.
        step: optimizer step from which the settings hold. The previous ones become `config_until_step_N.yaml`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CONFIG
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        names = (f"config_until_step_{step}{suffix}.yaml" for suffix in ("", *(f"_{n}" for n in range(2, 1000))))
        file.rename(next(folder / name for name in names if not (folder / name).exists()))
    file.write_text(text, encoding="utf-8")
    if job := os.environ.get("SLURM_JOB_ID"):
        (folder / JOB).write_text(f"{job}\n", encoding="utf-8")
