"""Run `smalti fit` in separate processes and read what the runs wrote."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


def fit(recipe: dict[str, Any], folder: Path, options: tuple[str, ...] = (), threads: int | None = None) -> None:
    """Train with a recipe. Write recipe.yaml, log.txt and the run with its metrics.csv to a folder.

    Args:
        recipe: the content of a recipe. Its logger is replaced by a CSVLogger.
        folder: the output folder; created if it does not exist.
        options: additional command line options.
        threads: number of threads of the process; None for torch's default.

    Raises:
        subprocess.CalledProcessError: the training failed; log.txt says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder), "name": ""}}
    recipe = recipe | {"trainer": recipe["trainer"] | {"logger": logger}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "smalti", "fit", "-c", str(folder / "recipe.yaml"), *options]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)


def find_checkpoint(folder: Path) -> Path:
    """Return the last checkpoint of the newest run in a folder."""
    return _find_newest(folder, "last.ckpt")


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Return the logged rows of the newest run in a folder. Values that a row does not have are empty strings."""
    with _find_newest(folder, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _find_newest(folder: Path, name: str) -> Path:
    return max(folder.rglob(name), key=lambda file: file.stat().st_mtime)
