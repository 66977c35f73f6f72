"""Fixtures for tests of bulk tokenization: tiny tokenizers, photos with captions, shards."""

import tarfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.__main__ import main
from smalti.tokenizers import onevae, wetok
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import save

NUM_PHOTOS = 23


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Return a folder with tokenizers, 23 photos with captions, and three shards with the same photos."""
    folder = tmp_path_factory.mktemp("material")
    torch.manual_seed(0)
    save(wetok(FSQ([8, 8, 8], 2), stride=8, channels=8, blocks=1, groups=None), folder / "tokenizer")
    torch.manual_seed(1)
    save(wetok(FSQ([8, 8, 8], 2), stride=8, channels=8, blocks=1, groups=None), folder / "other")
    save(wetok(FSQ([8, 8, 8, 8, 8]), stride=8, channels=8, blocks=1, groups=None), folder / "single")
    save(wetok(KL(4), stride=8, channels=8, blocks=1, groups=None), folder / "continuous")
    save(onevae(FSQ([8, 8, 8]), stride=(4, 8, 8), channels=8, blocks=1), folder / "video")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for index in range(NUM_PHOTOS):
        pixels = random.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((50 + index, 40), Image.Resampling.BICUBIC)
        image.save(folder / "photos" / f"{index:03d}.png")
        (folder / "photos" / f"{index:03d}.txt").write_text(f"Photo {index}, für alle", encoding="utf-8")
    for shard, indices in enumerate((range(9), range(9, 18), range(18, NUM_PHOTOS))):
        write_shard(folder / f"shard-{shard}.tar", {f"{i:03d}": read_photo_files(folder, i) for i in indices})
    return folder


def read_photo_files(folder, index):
    name = folder / "photos" / f"{index:03d}"
    return {"png": name.with_suffix(".png").read_bytes(), "txt": name.with_suffix(".txt").read_bytes()}


@pytest.fixture(scope="session", name="write_shard")
def _write_shard():
    """Return a function that writes a webdataset shard."""
    return write_shard


@pytest.fixture
def photo_files(material):
    """Return a function from the index of a photo to its files by suffix."""
    return lambda index: read_photo_files(material, index)


@pytest.fixture(scope="session")
def content():
    """Return a function that returns the bytes of all files in a folder, hidden ones too, by name."""
    return lambda folder: {
        path.name: path.read_bytes() if path.is_file() else None for path in sorted(folder.iterdir())
    }


def write_shard(file, samples):
    with tarfile.open(file, "w") as tar:
        for key, files in samples.items():
            for suffix, content in files.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(content)
                tar.addfile(header, BytesIO(content))


@pytest.fixture
def work(material, tmp_path, monkeypatch):
    """Return a new working directory with links to the material."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMALTI_TOKENIZER", raising=False)
    return tmp_path


@pytest.fixture
def bulk():
    """Return a function that runs `smalti tokenize-dataset` on the photos, with other options where they are given."""

    def run(out="tokens", *options, data="photos", tokenizer="tokenizer", protocol="square32", format_="npy"):
        command = ["tokenize-dataset", "--tokenizer", tokenizer, "--data", data, "--out", str(out)]
        command += ["--protocol", protocol, "--format", format_, "--workers", "0", "--batch-size", "4"]
        command += ["--samples-per-shard", "10"]
        return main([*command, *options])

    return run


@pytest.fixture
def error_message(capsys):
    """Return a function that calls another one, checks that it fails in one sentence, and returns the message."""

    def run(function, *arguments, **options):
        capsys.readouterr()
        assert function(*arguments, **options) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(lines) == 1
        return lines[0]

    return run
