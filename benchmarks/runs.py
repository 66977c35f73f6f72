"""What benchmarks of training share: runs of `smalti fit` in processes of their own, and what they leave."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


def fit(settings: dict[str, Any], folder: Path, options: tuple[str, ...] = (), threads: int | None = None) -> None:
    """Train by a recipe; everything goes into `folder`: recipe.yaml, log.txt and the run with its metrics.csv.

    Args:
        settings: the recipe; its logger is replaced.
        folder: made where it is missing.
        options: further words of the command.
        threads: of the process; None: as many as it takes by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder), "name": ""}}
    settings["trainer"]["logger"] = logger
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "smalti", "fit", "-c", str(folder / "recipe.yaml"), *options]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)


def checkpoint(folder: Path) -> Path:
    """The last checkpoint of a folder's newest run."""
    return _newest(folder, "last.ckpt")


def metrics(folder: Path) -> list[dict[str, str]]:
    """The logged rows of a folder's newest run."""
    with _newest(folder, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _newest(folder: Path, name: str) -> Path:
    return max(folder.rglob(name), key=lambda file: file.stat().st_mtime)
