"""Training on images of several sizes in one run: every batch has one size, and the sizes alternate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from smalti.data.data_modules import ImageData
from smalti.data.loader import Loader
from smalti.data.mixed_data import EndlessBatches, MixedLoader
from smalti.data.sources import Source
from smalti.errors import SmaltiError
from smalti.seeds import derive_seed


class MultiSizeImageData(ImageData):
    """Batches of images of several sizes, (B, 3, size, size) in [-1, 1]. Every process gets the same size at the same time.

    One epoch uses every training image (`repeats` times) at every size, with different crops. The batches of all sizes come
    in random order. Validation uses the largest size.

    Args:
        train: Training images, given in the ways of `ImageData`.
        validation: Validation images, given in the same ways. Must not share images with `train`.
        sizes: Heights and widths of the images in pixels. Multiples of the tokenizer's spatial stride.
        batch_sizes: Images per batch on each process (GPU), one number per size: fewer large images take as much memory as
            many small ones.
        seed: Seed for shuffling, crops, flips and the order of sizes.
        options: Further arguments of `ImageData`. Workers and repeats are per size.

    Raises:
        SmaltiError: there are no two different sizes, or not one batch size per size; see also `ImageData`.
    """

    def __init__(
        self,
        train: str | Source | Path | None = None,
        validation: str | Source | Path | None = None,
        sizes: tuple[int, ...] = (256, 512),
        batch_sizes: tuple[int, ...] = (4, 1),
        seed: int = 0,
        **options: Any,
    ) -> None:
        if len(set(sizes)) != len(sizes) or len(sizes) < 2:
            raise SmaltiError(f"sizes is {list(sizes)}: give at least two different sizes, or use ImageData.")
        if len(batch_sizes) != len(sizes):
            raise SmaltiError(
                f"batch_sizes has {len(batch_sizes)} numbers and sizes {len(sizes)}: give one batch size per size."
            )
        by_size = dict(zip(sizes, batch_sizes, strict=True))
        self.size = max(sizes)
        super().__init__(train, validation, self.size, by_size[self.size], seed=seed, **options)
        self._images = {
            size: ImageData(self.train, None, size, batch_size, seed=derive_seed(seed, size), **options)
            for size, batch_size in by_size.items()
        }

    def train_dataloader(self) -> MixedLoader:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a loader of complete training batches that starts at the trainer's position."""
        rank, world_size = self.rank_and_world_size()
        parts = {
            f"size {size}": EndlessBatches(
                partial(images.build_training_loader, rank, world_size, as_uint8=self.is_running)
            )
            for size, images in self._images.items()
        }
        counts = [len(part.loader) for part in parts.values()]
        return self.close_at_teardown(MixedLoader(parts, counts, seed=self.seed, get_position=self.position))

    def preview_loaders(self) -> list[Loader]:
        """Return a loader of batches of each size, see `SourceData.preview_loaders`."""
        rank, world_size = self.rank_and_world_size()
        return [images.build_preview_loader(rank, world_size) for images in self._images.values()]
