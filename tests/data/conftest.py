import io
from pathlib import Path

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
