"""Tokenizing many files in batches: images are decoded by worker processes, and those of one size share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smalti.data import EvaluationTransform, VideoEvaluationTransform, VideoSegment
from smalti.errors import SmaltiError
from smalti.images import decode_image
from smalti.pixels import uint8_to_pixels
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import TokenGrid
from smalti.video import probe

Loaded = tuple[Path, Tensor | SmaltiError, Fraction | None]
"""A file, its pixels in uint8 or why they cannot be read, and the frame rate of a clip."""


class FileBatches:
    """Tokens of files, computed in batches ahead of the files that are asked for.

    Args:
        tokenizer: a discrete tokenizer in evaluation mode.
        files: images or videos in the order in which they will be asked for.
        load: function from a file to its pixels, (3, H, W) or (3, T, H, W) uint8, and its frame rate, which may raise a
            SmaltiError.
        batch_size: files per batch.
        workers: number of worker processes that decode files.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        files: Sequence[Path],
        load: Callable[[Path], tuple[Tensor, Fraction | None]],
        batch_size: int,
        workers: int,
    ) -> None:
        self._tokenizer = tokenizer
        loader: DataLoader[Any] = DataLoader(
            _Files(files, load), batch_size=batch_size, num_workers=workers, collate_fn=list
        )
        self._batches: Iterator[list[Loaded]] = iter(loader)
        self._ready: dict[Path, tuple[TokenGrid, Fraction | None] | SmaltiError] = {}

    def tokenize(self, file: Path) -> tuple[TokenGrid, Fraction | None]:
        """Return the tokens of the next file, ids (1, N, G) on the CPU, and the frame rate of a clip.

        Raises:
            SmaltiError: the file cannot be read.
        """
        while file not in self._ready:
            self._tokenize_batch(next(self._batches))
        result = self._ready.pop(file)
        if isinstance(result, SmaltiError):
            raise result
        return result

    @torch.inference_mode()
    def _tokenize_batch(self, batch: list[Loaded]) -> None:
        by_size: dict[torch.Size, list[tuple[Path, Tensor, Fraction | None]]] = {}
        for file, loaded, rate in batch:
            if isinstance(loaded, SmaltiError):
                self._ready[file] = loaded
            else:
                by_size.setdefault(loaded.shape, []).append((file, loaded, rate))
        weight = next(self._tokenizer.parameters())
        for items in by_size.values():
            pixels = uint8_to_pixels(torch.stack([pixels for _, pixels, _ in items]).to(weight.device))
            tokens = self._tokenizer.tokenize(pixels.to(weight.dtype)).to("cpu")
            for index, (file, _, rate) in enumerate(items):
                single = TokenGrid(
                    ids=tokens.ids[index : index + 1], grids=tokens.grids, size=tokens.size, frames=tokens.frames
                )
                self._ready[file] = (single, rate)


class _Files(Dataset[Loaded]):
    def __init__(self, files: Sequence[Path], load: Callable[[Path], tuple[Tensor, Fraction | None]]) -> None:
        self._files = files
        self._load = load

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Loaded:
        file = self._files[index]
        try:
            return file, *self._load(file)
        except SmaltiError as error:  # a worker returns errors: the main process reports them in order
            return file, error, None


class ImageReader:
    """Reads images, prepared as a protocol demands.

    Args:
        transform: transform of the protocol; None for the original size.
    """

    def __init__(self, transform: EvaluationTransform | None) -> None:
        self._transform = transform or EvaluationTransform(None, None)

    def __call__(self, file: Path) -> tuple[Tensor, None]:
        """Return (3, H, W) uint8."""
        return self._transform.to_uint8(decode_image(file)), None


class ClipReader:
    """Reads the first clip of videos, prepared as a protocol demands.

    Args:
        transform: transform of the protocol.
        start: time of the first frame in seconds.
        stop: end in seconds; None for the end of the video.
    """

    def __init__(self, transform: VideoEvaluationTransform, start: Fraction, stop: Fraction | None) -> None:
        self._transform = transform
        self._start = start
        self._stop = stop

    def __call__(self, file: Path) -> tuple[Tensor, Fraction]:
        """Return (3, T, H, W) uint8, and the frame rate."""
        clip = self._transform.to_uint8(VideoSegment(str(file), file, self._start, self._stop))
        return clip.pixels, self._transform.rate or probe(file).rate
