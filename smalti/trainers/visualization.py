"""What validation shows to people.

Shapes: C = 3 channels, T frames, H, W pixels; uint8.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid, save_image

from smalti.files import atomic_write
from smalti.pixels import pixels_to_uint8
from smalti.types import Batch
from smalti.video import write_video

_WHITE = 255
_DEFAULT_RATE = 24

Pair = tuple[Tensor, Tensor]
"""Original and reconstruction, each (3, T, H, W)."""


class ReconstructionGrid(Callback):
    """At each validation, the first samples: original, reconstruction, and their difference, doubled around grey.

    An image is a row of three. A clip is three rows of frames, a strip, and moves in an mp4, original beside
    reconstruction, at the frame rate that the data module states (its attribute `rate`), or else 24 frames a second. Both
    go into the run's folder, under `reconstructions`, and the PNG to TensorBoard, too.

    Args:
        samples: how many images.
        clips: how many clips.
        frames: of a clip in its strip, at most, evenly spread; the mp4 has all.
    """

    def __init__(self, samples: int = 8, clips: int = 4, frames: int = 8) -> None:
        self.samples = samples
        self.clips = clips
        self.frames = frames
        self._images: list[Pair] = []
        self._clips: list[Pair] = []

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero:
            return
        moving = batch.pixels.ndim == 5
        kept, limit = (self._clips, self.clips) if moving else (self._images, self.samples)
        wanted = max(limit - len(kept), 0)
        for x, y in zip(batch.pixels[:wanted], outputs[:wanted], strict=True):
            original, reconstruction = (pixels_to_uint8(v if moving else v.unsqueeze(1)).cpu() for v in (x, y))
            kept.append((original, reconstruction))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the pictures together."""
        images, clips = self._images, self._clips
        self._images, self._clips = [], []
        if trainer.sanity_checking:
            return
        folder = trainer.log_dir  # asked by all processes: Lightning's answer is a broadcast
        if images:
            tiles = [tile for pair in images for tile in _rows(pair, 1)]
            _publish(trainer, folder, _sheet(tiles, columns=3), "")
        if clips:
            columns = min(self.frames, max(original.shape[1] for original, _ in clips))
            tiles = [tile for pair in clips for tile in _rows(pair, columns)]
            _publish(trainer, folder, _sheet(tiles, columns), "clips_")
            if folder is not None:
                rate = getattr(trainer.datamodule, "rate", None) or _DEFAULT_RATE  # pyright: ignore[reportAttributeAccessIssue]
                write_video(_file(trainer, folder, "clips_", ".mp4"), _film(clips), rate)


def _rows(pair: Pair, count: int) -> Iterator[Tensor]:
    """`count` frames (3, H, W) of the original, of the reconstruction, and of their difference."""
    original, reconstruction = pair
    chosen = torch.linspace(0, original.shape[1] - 1, count).round().long()
    original, reconstruction = original[:, chosen].int(), reconstruction[:, chosen].int()
    # Differences are small: doubled around grey, they can be seen.
    difference = (128 + 2 * (reconstruction - original)).clamp(0, 255)
    for row in (original, reconstruction, difference):
        yield from row.to(torch.uint8).unbind(1)


def _film(clips: list[Pair]) -> Iterator[Tensor]:
    """Frames with a clip a row, the original to the left; a clip that is over stands still."""
    for t in range(max(original.shape[1] for original, _ in clips)):
        yield _sheet([clip[:, min(t, clip.shape[1] - 1)] for pair in clips for clip in pair], columns=2)


def _sheet(tiles: list[Tensor], columns: int) -> Tensor:
    """Pictures (3, H, W) of any sizes in rows on white, (3, height, width)."""
    height, width = (max(tile.shape[i] for tile in tiles) for i in (-2, -1))
    padded = [F.pad(tile, (0, width - tile.shape[-1], 0, height - tile.shape[-2]), value=_WHITE) for tile in tiles]
    return make_grid(padded, nrow=columns, pad_value=_WHITE)


def _publish(trainer: pl.Trainer, folder: str | None, picture: Tensor, kind: str) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            tag = f"val/{kind}original_reconstruction_difference"
            logger.experiment.add_image(tag, picture, global_step=trainer.global_step)
    if folder is not None:
        with atomic_write(_file(trainer, folder, kind, ".png")) as partial:
            save_image(picture / _WHITE, partial)


def _file(trainer: pl.Trainer, folder: str, kind: str, suffix: str) -> Path:
    return Path(folder) / "reconstructions" / f"{kind}step_{trainer.global_step:08d}{suffix}"
