"""Images from folders, shards and packages, and the data module that feeds them to training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.data.decode import UnreadableImageError, decode
from smalti.data.folders import Folder
from smalti.data.loader import Loader, Skipped
from smalti.data.loading import evaluation_loader, open_source, training_loader
from smalti.data.photos import Photos
from smalti.data.shards import Shards
from smalti.data.sources import Files, Images, Source
from smalti.data.transforms import EvaluationTransform, TrainingTransform, to_pixels

if TYPE_CHECKING:
    from smalti.data.module import ImageData

__all__ = [
    "EvaluationTransform",
    "Files",
    "Folder",
    "ImageData",
    "Images",
    "Loader",
    "Photos",
    "Shards",
    "Skipped",
    "Source",
    "TrainingTransform",
    "UnreadableImageError",
    "decode",
    "evaluation_loader",
    "open_source",
    "to_pixels",
    "training_loader",
]


def __getattr__(name: str) -> Any:
    """Import Lightning, which takes seconds, only where the data module is asked for."""
    if name != "ImageData":
        raise AttributeError(f"module 'smalti.data' has no attribute '{name}'")
    from smalti.data.module import ImageData

    return ImageData
