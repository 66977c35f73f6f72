"""Training on images and videos in one run: every batch contains either images or clips, in a fixed ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from smalti.data.data_modules import ImageData, TrainingData, VideoData
from smalti.data.loader import Loader, warn_about_changes
from smalti.data.path_table import digest_names
from smalti.data.sampler import TrainingPosition
from smalti.errors import SmaltiError
from smalti.seeds import derive_seed
from smalti.types import Batch


class EndlessBatches:
    """The batches of a training loader, starting at any index and continuing over all epochs.

    Args:
        build_loader: builds the loader, given the function that returns its training position.
    """

    def __init__(self, build_loader: Callable[[Callable[[], TrainingPosition]], Loader]) -> None:
        self._position = TrainingPosition()
        self.loader = build_loader(lambda: self._position)

    def iterate_from(self, index: int) -> Iterator[Batch]:
        """Yield the batches `index`, `index` + 1, ..., counted from the first batch of epoch 0, without end."""
        while True:
            self._position = TrainingPosition(*divmod(index, len(self.loader)))
            for batch in self.loader:
                yield batch
                index += 1


class MixedLoader:
    """Iterates over complete batches of images or of clips. The kind of each depends only on seed, epoch and index.

    An epoch contains the batches of one epoch of videos, and as many batches of images as the ratio requires, in random
    order. Images have their own epochs: an epoch starts with the image batch that follows the last one of the epoch before.

    Args:
        images: image batches of this process.
        videos: video batches of this process; the same number on every process.
        image_share: fraction of the batches that contain images, between 0 and 1.
        seed: seed for the order of image and video batches.
        get_position: returns the training position. It is called at the start of each iteration.
    """

    def __init__(
        self,
        images: EndlessBatches,
        videos: EndlessBatches,
        *,
        image_share: float,
        seed: int,
        get_position: Callable[[], TrainingPosition],
    ) -> None:
        self._images = images
        self._videos = videos
        self._seed = seed
        self._get_position = get_position
        self.video_batches_per_epoch = len(videos.loader)
        self.image_batches_per_epoch = max(1, round(self.video_batches_per_epoch * image_share / (1 - image_share)))

    @property
    def error(self) -> Exception | None:
        """Why no batch can be loaded anymore, see `Loader`."""
        return self._images.loader.error or self._videos.loader.error

    def __len__(self) -> int:
        """Return the number of batches of a complete epoch, wherever it starts."""
        return self.image_batches_per_epoch + self.video_batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        # As in `Loader`, this runs when the first batch is requested.
        epoch, batches_done = self._get_position()
        order = self.draw_order(epoch)
        images_done = sum(order[:batches_done])
        videos_done = batches_done - images_done
        images = self._images.iterate_from(epoch * self.image_batches_per_epoch + images_done)
        videos = self._videos.iterate_from(epoch * self.video_batches_per_epoch + videos_done)
        for is_image_batch in order[batches_done:]:
            yield next(images if is_image_batch else videos)

    def draw_order(self, epoch: int) -> list[bool]:
        """Return for each batch of an epoch whether it contains images."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
        return (torch.randperm(len(self), generator=generator) < self.image_batches_per_epoch).tolist()

    def close(self) -> None:
        """Stop the workers."""
        self._images.loader.close()
        self._videos.loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the settings that determine the order, as in `Loader`."""
        own = {"image_batches": self.image_batches_per_epoch, "seed": self._seed}
        return own | {"images": self._images.loader.state_dict(), "videos": self._videos.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the settings with those of a checkpoint, and warn if the run cannot resume exactly."""
        warn_about_changes(state, self.state_dict())


class MixedData(TrainingData):
    """Batches of images and batches of clips in a fixed ratio. Every process gets the same kind of batch at the same time.

    Images and videos each have their own size, batch size, workers and augmentation. One epoch uses every training video
    of `videos` (`repeats` times), and images in proportion. Validation uses the videos only; evaluate on images with
    `smalti evaluate`.

    Args:
        images: Images for training, with the options of `ImageData`, such as --data.images.train my/photos. Its validation
            images are not used.
        videos: Videos for training and validation, with the options of `VideoData`, such as --data.videos.train my/videos.
        image_share: Fraction of the batches that contain images, between 0 and 1 (exclusive). With 0.2, there is one batch
            of images for every four batches of clips.
        seed: Seed for the order of image batches and video batches.

    Raises:
        SmaltiError: `image_share` is not between 0 and 1.
    """

    def __init__(self, images: ImageData, videos: VideoData, image_share: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if not 0 < image_share < 1:
            raise SmaltiError(
                f"image_share is {image_share}: give a fraction between 0 and 1, or use ImageData or VideoData alone."
            )
        self.images = images
        self.videos = videos
        self.rate = videos.rate
        self.image_share = image_share
        self.seed = seed

    def check_sources(self, stage: str, option: str = "data") -> None:
        """Check that the sources of a stage are given; see `TrainingData.check_sources`."""
        if stage == "fit":
            self.images.require("train", option=f"{option}.images")
        self.videos.check_sources(stage, f"{option}.videos")

    def find_overlap(self) -> str | None:
        """Describe the validation videos that are also training videos; None if there are none."""
        return self.videos.find_overlap()

    def digest(self) -> str:
        """Return the SHA-256 of the training images and videos; see `Source.digest`."""
        return digest_names([self.images.digest(), self.videos.digest()])

    def train_dataloader(self) -> MixedLoader:
        """Return a loader of complete training batches that starts at the trainer's position.

        Its length is that of the complete epoch.
        """
        rank, world_size = self.rank_and_world_size()
        as_uint8 = self.is_running
        loader = MixedLoader(
            EndlessBatches(lambda position: self.images.build_training_loader(rank, world_size, position, as_uint8)),
            EndlessBatches(lambda position: self.videos.build_training_loader(rank, world_size, position, as_uint8)),
            image_share=self.image_share,
            seed=self.seed,
            get_position=self.position,
        )
        return self.close_at_teardown(loader)

    def preview_loaders(self) -> list[Loader]:
        """Return a loader of image batches and one of clips, see `SourceData.preview_loaders`."""
        rank, world_size = self.rank_and_world_size()
        return [data.build_preview_loader(rank, world_size) for data in (self.images, self.videos)]

    def val_dataloader(self) -> Loader:
        """Return a loader that yields one clip of every validation video."""
        loader = self.videos.build_validation_loader(*self.rank_and_world_size(), as_uint8=self.is_running)
        return self.close_at_teardown(loader)
