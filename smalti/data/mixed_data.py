"""Images and videos in one run: each batch of one kind, in a fixed ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from smalti.data.data_modules import ImageData, TrainingData, VideoData
from smalti.data.loader import Loader, warn_of_changes
from smalti.data.sampler import Position
from smalti.errors import SmaltiError
from smalti.seeds import derive_seed
from smalti.types import Batch


class Endless:
    """The batches of a loader from any number on, epoch after epoch.

    Args:
        make: gives the loader, which asks the function that it is handed where its epoch starts.
    """

    def __init__(self, make: Callable[[Callable[[], Position]], Loader]) -> None:
        self._position = Position()
        self.loader = make(lambda: self._position)

    def __call__(self, number: int) -> Iterator[Batch]:
        """The batches `number`, `number` + 1, ... counted from the first of epoch 0, without end."""
        while True:
            self._position = Position(*divmod(number, len(self.loader)))
            for batch in self.loader:
                yield batch
                number += 1


class MixedLoader:
    """Whole batches, each of images or of clips; the kinds follow from seed, epoch and batch alone.

    An epoch holds the batches of one epoch of videos, and so many of images that they have their share, in an order drawn
    for the epoch. The images run on from epoch to epoch at a pace of their own.

    Args:
        images: of a process.
        videos: of a process; as many batches on every other.
        share: of the batches that are of images, between 0 and 1.
        seed: of the order of the kinds.
        position: asked at the start of each iteration where in training it stands.
    """

    def __init__(
        self, images: Endless, videos: Endless, *, share: float, seed: int, position: Callable[[], Position]
    ) -> None:
        self._images = images
        self._videos = videos
        self._seed = seed
        self._position = position
        self.videos_an_epoch = len(videos.loader)
        self.images_an_epoch = max(1, round(self.videos_an_epoch * share / (1 - share)))

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it starts."""
        return self.images_an_epoch + self.videos_an_epoch

    def __iter__(self) -> Iterator[Batch]:
        # As in `Loader`, all of this runs when the first batch is asked for.
        epoch, done = self._position()
        kinds = self.kinds(epoch)
        images_done = sum(kinds[:done])
        images = self._images(epoch * self.images_an_epoch + images_done)
        videos = self._videos(epoch * self.videos_an_epoch + done - images_done)
        for image in kinds[done:]:
            yield next(images if image else videos)

    def kinds(self, epoch: int) -> list[bool]:
        """Of each batch of an epoch, whether it is of images."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
        return (torch.randperm(len(self), generator=generator) < self.images_an_epoch).tolist()

    def close(self) -> None:
        """Let go of the workers."""
        self._images.loader.close()
        self._videos.loader.close()

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on, as of `Loader`."""
        own = {"image_batches": self.images_an_epoch, "seed": self._seed}
        return own | {"images": self._images.loader.state_dict(), "videos": self._videos.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare with what the checkpoint was written with, and warn where it cannot go on exactly."""
        warn_of_changes(state, self.state_dict())


class MixedData(TrainingData):
    """Batches of images and batches of clips, mixed by ratio: each batch of one kind, the same on every process.

    Each kind has its own size, batch size, workers and augmentation, as in its own module. An epoch shows every training
    video of `videos` (times its `repeats`), and images in proportion. Validation is that of the videos; images are
    evaluated by `smalti evaluate`.

    Args:
        images: of which the training batches are taken.
        videos: of which the training batches and the validation are taken.
        image_share: of the batches, between 0 and 1 (exclusive): 0.2 is one batch of images to four of clips.
        seed: of the order of the kinds.

    Raises:
        SmaltiError: the share is not between 0 and 1.
    """

    def __init__(self, images: ImageData, videos: VideoData, image_share: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if not 0 < image_share < 1:
            raise SmaltiError(
                f"image_share is {image_share}: give a share between 0 and 1, or use ImageData or VideoData alone."
            )
        self.images = images
        self.videos = videos
        self.rate = videos.rate
        self.image_share = image_share
        self.seed = seed

    def train_dataloader(self) -> MixedLoader:
        """Whole batches, from where the trainer stands; the length is the whole epoch's."""
        rank, world = self.place()
        images = Endless(lambda position: self.images.training(rank, world, position))
        videos = Endless(lambda position: self.videos.training(rank, world, position))
        loader = MixedLoader(images, videos, share=self.image_share, seed=self.seed, position=self.position)
        return self.until_teardown(loader)

    def val_dataloader(self) -> Loader:
        """One clip of every validation video."""
        return self.until_teardown(self.videos.validating(*self.place()))
