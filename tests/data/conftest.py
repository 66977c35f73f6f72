import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image


def picture(number: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A smooth picture of its own for each number."""
    generator = torch.Generator().manual_seed(number)
    small = torch.randint(0, 256, (3, 3, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(small.numpy()).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def footage(frames: int = 24, rate: int = 12, size: tuple[int, int] = (24, 20), offset: int = 0) -> bytes:
    """The bytes of a Matroska file without loss; frame i is grey, of level offset + 5 * i."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream("ffv1", rate=rate)
        track.width, track.height, track.pix_fmt = *size, "bgr0"
        for number in range(frames):
            image = np.full((size[1], size[0], 3), offset + 5 * number, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


@pytest.fixture
def make_video():
    """A function: the bytes of a video; see `footage`."""
    return footage


@pytest.fixture
def make_videos(tmp_path: Path):
    """A function: a folder of so many videos of 24 frames at 12 a second, some truncated, some of 3 frames only."""

    def make(count: int, bad: tuple[int, ...] = (), short: tuple[int, ...] = (), name: str = "videos") -> Path:
        folder = tmp_path / name
        for number in range(count):
            file = folder / f"{number % 3}" / f"{number:03}.mkv"
            file.parent.mkdir(parents=True, exist_ok=True)
            data = footage(3 if number in short else 24, offset=number)
            file.write_bytes(data[:300] if number in bad else data)
        return folder

    return make


@pytest.fixture
def make_video_shards(tmp_path: Path):
    """A function: so many shards of so many videos of 24 frames at 12 a second, some truncated; gives their pattern."""

    def make(shards: int, samples: int, bad: tuple[int, ...] = (), name: str = "video shards") -> str:
        folder = tmp_path / name
        folder.mkdir()
        for shard in range(shards):
            with webdataset.TarWriter(str(folder / f"{shard:03}.tar")) as tar:
                for number in range(shard * samples, (shard + 1) * samples):
                    data = footage(offset=number)
                    tar.write(
                        {
                            "__key__": f"{number:04}",
                            "mkv": data[:300] if number in bad else data,
                            "jpg": b"",
                            "cls": b"1",
                        }
                    )
        return str(folder / f"{{000..{shards - 1:03}}}.tar")

    return make


@pytest.fixture
def make_folder(tmp_path: Path):
    """A function: a folder of so many images, some of them truncated."""

    def make(count: int, bad: tuple[int, ...] = (), name: str = "images") -> Path:
        folder = tmp_path / name
        for number in range(count):
            file = folder / f"{number % 3}" / f"{number:03}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            data = encoded(picture(number), "JPEG")
            file.write_bytes(data[: len(data) // 2] if number in bad else data)
        return folder

    return make


@pytest.fixture
def make_shards(tmp_path: Path):
    """A function: so many shards of so many samples, some of them truncated; gives their pattern."""

    def make(shards: int, samples: int, bad: tuple[int, ...] = (), name: str = "shards") -> str:
        folder = tmp_path / name
        folder.mkdir()
        for shard in range(shards):
            with webdataset.TarWriter(str(folder / f"{shard:03}.tar")) as tar:
                for number in range(shard * samples, (shard + 1) * samples):
                    data = encoded(picture(number), "JPEG")
                    image = data[: len(data) // 2] if number in bad else data
                    tar.write({"__key__": f"{number:04}", "jpg": image, "cls": b"1"})
        return str(folder / f"{{000..{shards - 1:03}}}.tar")

    return make
