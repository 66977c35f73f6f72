"""Images and videos from folders, shards and packages, and the data modules that feed them to training.

A source holds images (`Images`, `Shards`) or videos (`Videos`, `VideoShards`); a transform makes pixels of one item, and
the loaders batches (`smalti.types.Batch`): (B, 3, H, W) of images, (B, 3, T, H, W) of clips. For evaluation:

    source = open_source("clips:validation")
    transform = VideoEvaluationTransform(frames=17, rate=12.5, stride=1, resize=256, crop=256)   # rate None: as it is
    loader = evaluation_loader(source, transform, batch_size, workers, rank, world, max_bad)     # as for images

gives one clip a video, from its start; a sample is called by its file and the clip's start, "bikes.mp4@7.480". With the
transform None, images and whole videos come one at a time, as they are. `loader.skipped` counts and names what could not be
read or was too short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.data.build_loaders import evaluation_loader, training_loader
from smalti.data.clip_transforms import Clip, ClipTransform, VideoEvaluationTransform, VideoTrainingTransform
from smalti.data.folders import Folder, VideoFolder
from smalti.data.image_decoding import UnreadableImageError, decode_image
from smalti.data.loader import Loader, Skipped
from smalti.data.open_source import open_source
from smalti.data.packaged_clips import Clips
from smalti.data.packaged_photos import Photos
from smalti.data.shards import Shards, VideoShards
from smalti.data.sources import ImageFiles, ImageSource, IndexedSource, Source, VideoFiles, VideoSegment, VideoSource
from smalti.data.transforms import EvaluationTransform, TrainingTransform

if TYPE_CHECKING:
    from smalti.data.data_modules import ImageData, VideoData
    from smalti.data.mixed_data import MixedData

__all__ = [
    "Clip",
    "ClipTransform",
    "Clips",
    "EvaluationTransform",
    "ImageFiles",
    "Folder",
    "VideoSegment",
    "ImageData",
    "ImageSource",
    "IndexedSource",
    "Loader",
    "MixedData",
    "Photos",
    "Shards",
    "Skipped",
    "Source",
    "TrainingTransform",
    "UnreadableImageError",
    "VideoData",
    "VideoEvaluationTransform",
    "VideoFiles",
    "VideoFolder",
    "VideoShards",
    "VideoTrainingTransform",
    "VideoSource",
    "decode_image",
    "evaluation_loader",
    "open_source",
    "training_loader",
]


def __getattr__(name: str) -> Any:
    """Import Lightning, which takes seconds, only where a data module is asked for."""
    if name in ("ImageData", "VideoData"):
        from smalti.data import data_modules

        return getattr(data_modules, name)
    if name == "MixedData":
        from smalti.data.mixed_data import MixedData

        return MixedData
    raise AttributeError(f"module 'smalti.data' has no attribute '{name}'")
