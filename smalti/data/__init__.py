"""Images and videos from folders, shards and Python packages, and the data modules for training on them.

A source provides images (`ImageSource`, `Shards`) or videos (`VideoSource`, `VideoShards`). A transform converts each item
to pixels, and a loader yields batches (`smalti.types.Batch`): (B, 3, H, W) for images, (B, 3, T, H, W) for clips. For
example, to evaluate on videos:

    source = open_source("clips:validation")
    transform = VideoEvaluationTransform(frames=17, rate=12.5, stride=1, resize=256, crop=256)
    loader = evaluation_loader(source, transform, batch_size, workers, rank, world_size, max_bad)

This yields one clip from the start of each video. A sample is named by its file and the start of the clip in seconds,
"bikes.mp4@7.480". With `rate=None`, videos keep their frame rate. With `transform=None`, complete images or videos of their
original size are yielded one at a time. `loader.skipped` counts and names the items that were unreadable or too short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.data.band_files import BandClips, BandFolder
from smalti.data.build_loaders import evaluation_loader, training_loader
from smalti.data.clip_transforms import Clip, ClipTransform, VideoEvaluationTransform, VideoTrainingTransform
from smalti.data.file_lists import ImageFiles, VideoFiles
from smalti.data.folders import Folder, VideoFolder
from smalti.data.image_transforms import EvaluationTransform, TrainingTransform
from smalti.data.loader import Loader, Skipped
from smalti.data.packaged_clips import Clips
from smalti.data.packaged_photos import Photos
from smalti.data.packaged_pictures import Pictures
from smalti.data.shards import Shards, VideoShards
from smalti.data.source_spec import open_source
from smalti.data.sources import ImageSource, IndexedSource, Source, VideoSegment, VideoSource
from smalti.images import UnreadableImageError, decode_image

if TYPE_CHECKING:
    from smalti.data.data_modules import ImageData, VideoData
    from smalti.data.mixed_data import MixedData
    from smalti.data.multi_size_data import MultiSizeImageData

__all__ = [
    "BandClips",
    "BandFolder",
    "Clip",
    "ClipTransform",
    "Clips",
    "EvaluationTransform",
    "Folder",
    "ImageData",
    "ImageFiles",
    "ImageSource",
    "IndexedSource",
    "Loader",
    "MixedData",
    "MultiSizeImageData",
    "Photos",
    "Pictures",
    "Shards",
    "Skipped",
    "Source",
    "TrainingTransform",
    "UnreadableImageError",
    "VideoData",
    "VideoEvaluationTransform",
    "VideoFiles",
    "VideoFolder",
    "VideoSegment",
    "VideoShards",
    "VideoSource",
    "VideoTrainingTransform",
    "decode_image",
    "evaluation_loader",
    "open_source",
    "training_loader",
]


def __getattr__(name: str) -> Any:
    """Import Lightning, which takes seconds, only when a data module is used."""
    if name in ("ImageData", "VideoData"):
        from smalti.data import data_modules

        return getattr(data_modules, name)
    if name == "MixedData":
        from smalti.data.mixed_data import MixedData

        return MixedData
    if name == "MultiSizeImageData":
        from smalti.data.multi_size_data import MultiSizeImageData

        return MultiSizeImageData
    raise AttributeError(f"module 'smalti.data' has no attribute '{name}'")
