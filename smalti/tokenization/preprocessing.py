"""How samples are prepared before they are tokenized: one or several versions of each.

A version is an evaluation protocol (`smalti.eval.protocols`) or a random augmentation. Several protocols give several
resolutions of a sample, and augmentations give several crops.

Shapes: H, W pixels, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from smalti.data import (
    BandClips,
    Clip,
    EvaluationTransform,
    Source,
    TrainingTransform,
    VideoEvaluationTransform,
    VideoSegment,
    VideoTrainingTransform,
)
from smalti.errors import SmaltiError
from smalti.eval.protocols import Protocol, get_protocol
from smalti.seeds import derive_seed
from smalti.video import probe


class PreparedSample(NamedTuple):
    """A version of a sample, ready for the tokenizer.

    Attributes:
        key: name of the sample; of a clip, with its start in seconds.
        version: index of the version.
        pixels: (3, H, W) or (3, T, H, W) uint8.
        rate: frames per second of a clip; None for an image.
    """

    key: str
    version: int
    pixels: Tensor
    rate: Fraction | None


@dataclass(frozen=True)
class Version:
    """One way to prepare a sample.

    Attributes:
        protocol: size and frames of the result.
        augmentation: None to follow the protocol exactly. A number draws a random resized crop and flip, for clips also a
            random start, of the protocol's size; each number gives another one.
        seed: seed for the augmentation. The crop of a sample depends on it, on the number and on the name of the sample.
    """

    protocol: Protocol
    augmentation: int | None = None
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the result, for JSON."""
        names = ("name", "resize", "crop", "interpolation", "antialias", "frames", "rate")
        settings = {name: value for name in names if (value := getattr(self.protocol, name)) is not None}
        if self.augmentation is not None:
            settings |= {"augmentation": self.augmentation, "seed": self.seed}
        return settings

    def build(self) -> nn.Module:
        """Return the transform.

        Raises:
            SmaltiError: an augmentation has no size.
        """
        protocol = self.protocol
        if self.augmentation is None:
            return build_transform(protocol)
        if protocol.crop is None:
            raise SmaltiError(
                f"Augmentations need a size, but the protocol {protocol.name} does not crop: choose one that does, such as "
                f"{'clip17x128@24' if protocol.clips else 'square256'}."
            )
        if protocol.frames is not None:
            return VideoTrainingTransform(protocol.frames, protocol.rate, size=protocol.crop)
        return TrainingTransform(protocol.crop)


def plan_versions(protocols: Sequence[str], augmentations: int = 0, seed: int = 0) -> list[Version]:
    """Return the versions of each sample: the protocols in order, then the augmentations of the first one.

    Args:
        protocols: names of protocols, at least one, all for images or all for clips.
        augmentations: number of random augmentations.
        seed: seed for the augmentations.

    Raises:
        SmaltiError: a protocol does not exist, or some are for images and some for clips.
    """
    found = [get_protocol(name) for name in protocols]
    if len({protocol.clips for protocol in found}) > 1:
        raise SmaltiError(f"The protocols {', '.join(protocols)} are for images and for clips: choose one kind.")
    versions = [Version(protocol) for protocol in found]
    versions += [Version(found[0], number, seed) for number in range(augmentations)]
    for version in versions:
        version.build()
    return versions


def check_protocol(source: Source, protocol: Protocol) -> None:
    """Check that a protocol is for what a source contains, images or videos.

    Raises:
        SmaltiError: it is not, or needs a frame rate that the source does not have.
    """
    if source.videos != protocol.clips:
        present, expected = ("videos", "images") if source.videos else ("images", "videos")
        example = "clip17x128@24" if source.videos else "imagenet256"
        raise SmaltiError(
            f"{source} contains {present}, but the protocol {protocol.name} is for {expected}: use a protocol for "
            f"{present}, such as {example}."
        )
    if protocol.rate is not None and isinstance(source, BandClips):
        raise SmaltiError(
            f"{source} contains clips without a frame rate, but the protocol {protocol.name} has one: leave out @ and the "
            "number after it."
        )


def build_transform(protocol: Protocol) -> EvaluationTransform | VideoEvaluationTransform:
    """Return the transform of a protocol."""
    spatial: dict[str, Any] = {
        "resize": protocol.resize,
        "crop": protocol.crop,
        "interpolation": protocol.interpolation,
        "antialias": protocol.antialias,
    }
    if protocol.clips:
        return VideoEvaluationTransform(protocol.frames, protocol.rate, **spatial)
    return EvaluationTransform(**spatial)


class Preprocessing:
    """Prepares all versions of a sample.

    Args:
        versions: the versions.
        all_clips: whether to cut each video into consecutive clips, instead of its first one. Frames at the end that are
            too few for another clip are left out. Augmentations cut one clip each.
    """

    def __init__(self, versions: Sequence[Version], *, all_clips: bool = False) -> None:
        self._versions = list(versions)
        self._transforms: list[Any] = [version.build() for version in versions]
        self._all_clips = all_clips

    def __call__(self, key: str, item: Image.Image | VideoSegment) -> Iterator[PreparedSample]:
        """Yield the versions of a sample in order.

        Args:
            key: name of the sample.
            item: an 8-bit RGB image, or a video.

        Raises:
            UnreadableError: while iterating, the video is damaged or too short.
        """
        for index, (version, transform) in enumerate(zip(self._versions, self._transforms, strict=True)):
            if isinstance(item, VideoSegment):
                rate = transform.rate or probe(item.video, threads=1).rate
                for clip in self._cut(key, item, version, transform, rate):
                    yield PreparedSample(clip.name, index, clip.pixels, rate)
            else:
                yield PreparedSample(key, index, self._seeded(version, key, transform.to_uint8, item), None)

    def _cut(self, key: str, video: VideoSegment, version: Version, transform: Any, rate: Fraction) -> Iterator[Clip]:
        video = video._replace(name=key)
        if version.augmentation is None and self._all_clips:
            return consecutive_clips(transform, video, rate)
        return iter([self._seeded(version, key, transform.to_uint8, video)])

    @staticmethod
    def _seeded(version: Version, key: str, function: Any, item: Any) -> Any:
        if version.augmentation is None:
            return function(item)
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(derive_seed(version.seed, version.augmentation, key))
        try:
            return function(item)
        finally:
            torch.default_generator.set_state(state)


def consecutive_clips(transform: VideoEvaluationTransform, video: VideoSegment, rate: Fraction) -> Iterator[Clip]:
    """Cut a video into consecutive clips, decoding it once.

    Args:
        transform: how many frames a clip has, and how each is transformed.
        video: the video.
        rate: frame rate of the clips, in frames per second.

    Yields:
        Clips in uint8, named by the video and their start in seconds.

    Raises:
        UnreadableVideoError: the video is damaged, or too short for one clip.
    """
    assert transform.frames is not None
    images = transform.read_images(video, video.start)
    frame_transform = None
    for number in count():
        frames = list(islice(images, transform.frames))
        if len(frames) < transform.frames:
            if number == 0:
                raise transform.too_short(video, len(frames))
            return
        frame_transform = frame_transform or transform.frame_transform(frames[0])
        start = video.start + number * transform.frames * transform.stride / rate
        yield Clip(torch.stack([*map(frame_transform, frames)], dim=1), f"{video.name}@{float(start):.3f}")
