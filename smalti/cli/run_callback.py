"""The callback that writes the settings of a run to its folder, and prints where it is."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from smalti.cli.run_folder import write_config
from smalti.trainers import TokenizerTraining
from smalti.trainers.losses.provenance import Provenance, loss_provenance
from smalti.trainers.number_format import abbreviate


class RunFolder(SaveConfigCallback):
    """Writes the settings of a run to its folder as soon as its first step has finished.

    A run that fails before leaves no folder, and a resumed run that fails before leaves the earlier settings in place.

    Attributes:
        folder: folder of the run; None before the training starts, and without a logger.
        first_step: optimizer steps that were finished before; None until the training starts.
    """

    folder: Path | None = None
    first_step: int | None = None
    _existing: frozenset[Path] | None = None

    def remember_files(self, folder: Path) -> None:
        """Remember what exists before a logger creates the folder. Lightning calls it before `setup`."""
        self._existing = frozenset(path for path in (folder, *folder.parents, *folder.glob("*")) if path.exists())

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Determine the folder. Do not write the settings yet, as Lightning's callback does here."""
        log_dir = trainer.log_dir  # read on all ranks, because Lightning broadcasts it
        if stage == "fit" and trainer.loggers and log_dir is not None:
            self.folder = Path(log_dir)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print where the run is and how to look at it."""
        self.first_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        if self.first_step > 0:
            print(f"Continuing at step {self.first_step}.")
        print(_describe_model(pl_module))
        if self.folder is not None:
            print(f"Run folder: {self.folder} (reconstructions: {self.folder / 'reconstructions'})")
        if isinstance(trainer.logger, TensorBoardLogger):
            folder = shlex.quote(str(Path(trainer.logger.root_dir)))
            print(f"Curves and images: tensorboard --logdir {folder}", flush=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the settings after the first step, before Lightning calls the callback that saves checkpoints."""
        if self.already_saved or self.first_step is None or trainer.global_step == self.first_step:
            return
        self.already_saved = True
        if self.folder is not None and trainer.is_global_zero:
            # With the path of the checkpoint, a run that starts from these settings would resume this one.
            config = Namespace({**self.config.clone(), "ckpt_path": None})
            pin_networks(config.model.losses, loss_provenance(cast(TokenizerTraining, pl_module).losses))
            write_config(self.folder, self.parser.dump(config, skip_unset=False), self.first_step)

    def remove_new_files(self, folder: Path) -> None:
        """Remove what this process has written for a run without a finished step, and folders that are then empty."""
        if self.already_saved or self._existing is None:
            return
        for file in (*folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"), folder / "hparams.yaml"):
            if file not in self._existing:
                file.unlink(missing_ok=True)
        for path in (folder, *folder.parents):
            if path in self._existing or not path.is_dir() or any(path.iterdir()):
                break
            path.rmdir()


def pin_networks(settings: Any, provenance: Provenance) -> None:
    """Add the SHA-256 of the networks that the losses use to the settings of a run.

    Args:
        settings: `model.losses`, changed in place. Only losses with the argument `sha256` are pinned.
        provenance: provenance of the losses by name.
    """
    for name, values in provenance.items():
        arguments = (settings or {}).get(name, {}).get("init_args") or {}
        if "sha256" in arguments and "sha256" in values:
            arguments["sha256"] = values["sha256"]


def _describe_model(module: pl.LightningModule) -> str:
    """Return the numbers of trained parameters of the networks, such as "tokenizer 559 K"."""
    counts = {
        name: sum(p.numel() for p in child.parameters() if p.requires_grad) for name, child in module.named_children()
    }
    parts = [f"{name} {abbreviate(count)}" for name, count in counts.items() if count]
    return f"Trained parameters: {', '.join(parts)}. Device: {module.trainer.num_devices} x {module.device.type}"
