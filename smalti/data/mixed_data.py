"""Training on several kinds of batches in one run, in a fixed ratio: every batch contains either images or clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from smalti.channel_groups import ChannelGroups, describe_groups
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
    """Iterates over complete batches of several loaders. Which loader is next depends only on seed, epoch and index.

    An epoch contains a fixed number of batches of each loader, in random order. Each loader has its own epochs: it
    continues with the batch that follows its last one of the epoch before.

    Args:
        parts: batches of this process, by name.
        batches_per_epoch: number of batches of each part in an epoch, the same on every process.
        seed: seed for the order of the parts.
        get_position: returns the training position. It is called at the start of each iteration.
        settings: what else determines the order, for checkpoints.
    """

    def __init__(
        self,
        parts: Mapping[str, EndlessBatches],
        batches_per_epoch: Sequence[int],
        *,
        seed: int,
        get_position: Callable[[], TrainingPosition],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._parts = dict(parts)
        self._batches_per_epoch = tuple(batches_per_epoch)
        self._seed = seed
        self._get_position = get_position
        self._settings = {**(settings or {}), "seed": seed}

    @property
    def error(self) -> Exception | None:
        """Why no batch can be loaded anymore, see `Loader`."""
        return next((part.loader.error for part in self._parts.values() if part.loader.error), None)

    def __len__(self) -> int:
        """Return the number of batches of a complete epoch, wherever it starts."""
        return sum(self._batches_per_epoch)

    def __iter__(self) -> Iterator[Batch]:
        # As in `Loader`, this runs when the first batch is requested.
        epoch, batches_done = self._get_position()
        order = self.draw_order(epoch)
        parts = [
            part.iterate_from(epoch * count + order[:batches_done].count(index))
            for index, (part, count) in enumerate(zip(self._parts.values(), self._batches_per_epoch, strict=True))
        ]
        for index in order[batches_done:]:
            yield next(parts[index])

    def draw_order(self, epoch: int) -> list[int]:
        """Return for each batch of an epoch the index of its part."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
        ends = torch.tensor(self._batches_per_epoch).cumsum(0)
        return torch.bucketize(torch.randperm(len(self), generator=generator), ends, right=True).tolist()

    def close(self) -> None:
        """Stop the workers."""
        for part in self._parts.values():
            part.loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the settings that determine the order, as in `Loader`."""
        return self._settings | {name: part.loader.state_dict() for name, part in self._parts.items()}

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

    @property
    def channels(self) -> ChannelGroups | None:
        """Groups of channels of the pixels.

        Raises:
            SmaltiError: those of the images and of the videos differ.
        """
        images, videos = self.images.channels, self.videos.channels
        if images is not None and videos is not None and images != videos:
            raise SmaltiError(
                f"The images have the channels {describe_groups(images)}, but the videos {describe_groups(videos)}: give "
                "both the same."
            )
        return videos or images

    def train_dataloader(self) -> MixedLoader:
        """Return a loader of complete training batches that starts at the trainer's position.

        Its length is that of the complete epoch.
        """
        rank, world_size = self.rank_and_world_size()
        as_uint8 = self.is_running
        parts = {
            "images": EndlessBatches(lambda get: self.images.build_training_loader(rank, world_size, get, as_uint8)),
            "videos": EndlessBatches(lambda get: self.videos.build_training_loader(rank, world_size, get, as_uint8)),
        }
        videos = len(parts["videos"].loader)
        images = max(1, round(videos * self.image_share / (1 - self.image_share)))
        loader = MixedLoader(
            parts, (images, videos), seed=self.seed, get_position=self.position, settings={"image_batches": images}
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
