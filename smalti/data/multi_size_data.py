"""Training on images of several sizes in one run: every batch has one size, and the sizes alternate."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from smalti.data.data_modules import ImageData, TrainingData
from smalti.data.image_transforms import ASPECT_RATIO
from smalti.data.loader import Loader
from smalti.data.mixed_data import EndlessBatches, MixedLoader
from smalti.data.sources import Source
from smalti.errors import SmaltiError
from smalti.seeds import derive_seed


class MultiSizeImageData(TrainingData):
    """Batches of images of several sizes, (B, 3, size, size) in [-1, 1]. Every process gets the same size at the same time.

    One epoch uses every training image (`repeats` times) at every size, with different crops. The batches of all sizes come
    in random order. Validation uses the largest size.

    Args:
        train: Training images, given in the ways of `ImageData`.
        validation: Validation images, given in the same ways. Must not share images with `train`.
        sizes: Heights and widths of the images in pixels. Multiples of the tokenizer's spatial stride.
        batch_sizes: Images per batch on each process (GPU), one number per size: fewer large images take as much memory as
            many small ones.
        workers: Number of worker processes per GPU and per size that load images. 0 to load in the main process.
        repeats: How often each training image is used per epoch and per size.
        seed: Seed for shuffling, crops, flips and the order of sizes.
        scale: Minimum and maximum area of training crops, as a fraction of the image area.
        flip: Whether to flip half of the training images horizontally.
        aspect_ratio: Minimum and maximum width / height of training crops.
        permute_colors: Probability with which the color channels of a training image are put in a random order.
        max_bad: Maximum fraction of unreadable images to skip before training stops with an error.

    Raises:
        SmaltiError: there are no two different sizes, or not one batch size per size; see also `ImageData`.
    """

    def __init__(
        self,
        train: str | Source | Path | None = None,
        validation: str | Source | Path | None = None,
        sizes: tuple[int, ...] = (256, 512),
        batch_sizes: tuple[int, ...] = (4, 1),
        workers: int = 2,
        repeats: int = 1,
        seed: int = 0,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        aspect_ratio: tuple[float, float] = ASPECT_RATIO,
        permute_colors: bool | float = False,
        max_bad: float = 0.01,
    ) -> None:
        super().__init__()
        if len(set(sizes)) != len(sizes) or len(sizes) < 2:
            raise SmaltiError(f"sizes is {list(sizes)}: give at least two different sizes, or use ImageData.")
        if len(batch_sizes) != len(sizes):
            raise SmaltiError(
                f"batch_sizes has {len(batch_sizes)} numbers and sizes {len(sizes)}: give one batch size per size."
            )
        self.sizes = tuple(sizes)
        self.size = max(sizes)
        self.seed = seed
        self._images: dict[int, ImageData] = {}
        for size, batch_size in zip(sizes, batch_sizes, strict=True):
            images = ImageData(
                train, validation, size, batch_size, workers, repeats, derive_seed(seed, size), scale, flip,
                aspect_ratio, permute_colors, max_bad,
            )  # fmt: skip
            self._images[size] = images
            train, validation = images.train, images.validation  # opened once

    def check_sources(self, stage: str, option: str = "data") -> None:
        """Check that the sources of a stage are given; see `TrainingData.check_sources`."""
        self._images[self.size].check_sources(stage, option)

    def find_overlap(self) -> str | None:
        """Describe the validation images that are also training images; None if there are none."""
        return self._images[self.size].find_overlap()

    def digest(self) -> str:
        """Return the SHA-256 of the training images; see `Source.digest`."""
        return self._images[self.size].digest()

    def train_dataloader(self) -> MixedLoader:
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

    def val_dataloader(self) -> Loader:
        """Return a loader that yields every validation image once, at the largest size."""
        loader = self._images[self.size].build_validation_loader(*self.rank_and_world_size(), as_uint8=self.is_running)
        return self.close_at_teardown(loader)
