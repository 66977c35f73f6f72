"""Contact sheets and videos of reconstructions, written at each validation.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.transforms.v2.functional import pil_to_tensor

from smalti.channel_groups import RGB, ChannelGroups
from smalti.eval.channel_views import panel_titles, pictures
from smalti.eval.comparison_video import comparison_video
from smalti.eval.contact_sheet import contact_sheet
from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.results import Example
from smalti.files import atomic_write
from smalti.types import Batch
from smalti.video import write_video

_DEFAULT_FRAME_RATE = 24


class ReconstructionGrid(Callback):
    """Writes the first samples of each validation: originals, reconstructions, and amplified differences with the PSNR.

    An image takes one row of three pictures. A clip takes three rows of frames. An mp4 shows each clip next to its
    reconstruction, at the frame rate of the data module (its attribute `rate`), or else at 24 frames per second. Files are
    written to `reconstructions` in the folder of the run; without a logger, a run has no folder, and nothing is written.
    Contact sheets are also logged to TensorBoard. See `smalti.eval.contact_sheet`. Of images with
    other channels than red, green and blue, each group is shown, of clips the group rgb or else the first group.

    Args:
        samples: number of images to show.
        clips: number of clips to show.
        frames: maximum number of evenly spaced frames to show per clip; the mp4 shows all.
    """

    def __init__(self, samples: int = 8, clips: int = 4, frames: int = 8) -> None:
        self.samples = samples
        self.clips = clips
        self.frames = frames
        self._images: list[Example] = []
        self._clips: list[Example] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep samples of the batch, on rank 0.

        Args:
            trainer: the trainer.
            pl_module: the training module.
            outputs: reconstructions of `batch.pixels`, of the same shape.
            batch: images or clips.
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        if not trainer.is_global_zero:
            return
        kept, limit = (self._clips, self.clips) if batch.pixels.ndim == 5 else (self._images, self.samples)
        count = max(limit - len(kept), 0)
        if not count:
            return
        groups: ChannelGroups = getattr(getattr(pl_module, "tokenizer", None), "channels", RGB)
        originals, reconstructions = (pictures(x[:count], groups).cpu() for x in (batch.pixels, outputs))
        panels = panel_titles(batch.pixels, groups)
        for name, original, reconstruction in zip(batch.names[:count], originals, reconstructions, strict=True):
            kept.append(Example(name, original, reconstruction, panels))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files, and log the contact sheets to TensorBoard."""
        images, clips = self._images, self._clips
        self._images, self._clips = [], []
        if trainer.sanity_checking:
            return
        folder = trainer.log_dir if trainer.loggers else None  # read on all ranks, because Lightning broadcasts it
        for examples, prefix in ((images, ""), (clips, "clips_")):
            if examples:
                self._write_contact_sheet(trainer, folder, examples, prefix)
        if clips and folder is not None:
            rate = getattr(trainer.datamodule, "rate", None) or _DEFAULT_FRAME_RATE  # pyright: ignore[reportAttributeAccessIssue]
            write_video(_output_file(trainer, folder, "clips_", ".mp4"), comparison_video(clips), rate)

    def _write_contact_sheet(
        self, trainer: pl.Trainer, folder: str | None, examples: list[Example], prefix: str
    ) -> None:
        """Log a contact sheet of images or clips to TensorBoard, and write it to a PNG file."""
        captions = {example.name: f"{_psnr(example):.2f} dB" for example in examples}
        sheet = contact_sheet(examples, captions, self.frames)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                tag = f"val/{prefix}original_reconstruction_difference"
                logger.experiment.add_image(tag, pil_to_tensor(sheet), global_step=trainer.global_step)
        if folder is not None:
            with atomic_write(_output_file(trainer, folder, prefix, ".png")) as partial:
                sheet.save(partial)


def _psnr(example: Example) -> float:
    return mean_over_frames(psnr, example.original[None], example.reconstruction[None]).item()


def _output_file(trainer: pl.Trainer, folder: str, prefix: str, suffix: str) -> Path:
    """Return the path of a file, named by the current step."""
    return Path(folder) / "reconstructions" / f"{prefix}step_{trainer.global_step:08d}{suffix}"
