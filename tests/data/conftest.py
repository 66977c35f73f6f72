"""Fixtures that write small folders and shards of images and videos, some of them unreadable."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

BAD_VIDEO_BYTES = 300  # a video truncated to its header


def make_image(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Return a smooth random image."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (3, 3, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(small.numpy()).resize(size, Image.Resampling.BICUBIC)


def encode_jpeg(seed: int, bad: bool) -> bytes:
    """Return a random image as JPEG, truncated to half of its bytes if `bad`."""
    stream = io.BytesIO()
    make_image(seed).save(stream, "JPEG")
    data = stream.getvalue()
    return data[: len(data) // 2] if bad else data


def encode_video(frames: int = 24, rate: int = 12, size: tuple[int, int] = (24, 20), offset: int = 0) -> bytes:
    """Return a lossless Matroska file in which frame i is gray, with level offset + 5 * i."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream("ffv1", rate=rate)
        track.width, track.height, track.pix_fmt = *size, "bgr0"
        for index in range(frames):
            image = np.full((size[1], size[0], 3), offset + 5 * index, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


def write_folder(folder: Path, suffix: str, count: int, content: Callable[[int], bytes]) -> Path:
    """Write files 0/000, 1/001, 2/002, 0/003, ... with this content."""
    for index in range(count):
        file = folder / f"{index % 3}" / f"{index:03}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(index))
    return folder


def write_shards(folder: Path, shards: int, samples: int, content: Callable[[int], dict[str, bytes]]) -> str:
    """Write shards with `samples` samples each, and return their pattern."""
    folder.mkdir()
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:03}.tar")) as tar:
            for index in range(shard * samples, (shard + 1) * samples):
                tar.write({"__key__": f"{index:04}", **content(index)})
    return str(folder / f"{{000..{shards - 1:03}}}.tar")


@pytest.fixture
def make_video():
    """A function that returns the bytes of a video; see `encode_video`."""
    return encode_video


@pytest.fixture
def make_folder(tmp_path: Path):
    """A function that writes a folder of images, some of them truncated."""

    def make(count: int, bad: tuple[int, ...] = (), name: str = "images") -> Path:
        return write_folder(tmp_path / name, ".jpg", count, lambda index: encode_jpeg(index, index in bad))

    return make


@pytest.fixture
def make_shards(tmp_path: Path):
    """A function that writes shards of images, some of them truncated, and returns their pattern."""

    def make(shards: int, samples: int, bad: tuple[int, ...] = (), name: str = "shards") -> str:
        def content(index: int) -> dict[str, bytes]:
            return {"jpg": encode_jpeg(index, index in bad), "cls": b"1"}

        return write_shards(tmp_path / name, shards, samples, content)

    return make


@pytest.fixture
def make_videos(tmp_path: Path):
    """A function that writes a folder of videos with 24 frames at 12 per second, some truncated, some with 3 frames."""

    def make(count: int, bad: tuple[int, ...] = (), short: tuple[int, ...] = (), name: str = "videos") -> Path:
        def content(index: int) -> bytes:
            data = encode_video(3 if index in short else 24, offset=index)
            return data[:BAD_VIDEO_BYTES] if index in bad else data

        return write_folder(tmp_path / name, ".mkv", count, content)

    return make


@pytest.fixture
def make_video_shards(tmp_path: Path):
    """A function that writes shards of videos with 24 frames at 12 per second, some truncated; returns their pattern."""

    def make(
        shards: int, samples: int, bad: tuple[int, ...] = (), name: str = "video shards", images: bool = True
    ) -> str:
        def content(index: int) -> dict[str, bytes]:
            data = encode_video(offset=index)
            other = {"jpg": b""} if images else {"json": b"{}"}
            return {"mkv": data[:BAD_VIDEO_BYTES] if index in bad else data, **other, "cls": b"1"}

        return write_shards(tmp_path / name, shards, samples, content)

    return make
