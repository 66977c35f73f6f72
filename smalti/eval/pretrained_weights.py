"""Weights that published metrics need and no package ships: found, downloaded or refused, never guessed.

The places, in order: the caller's path, the folder that the environment variable SMALTI_WEIGHTS names, torch.hub's
cache, a download into that cache. What is found must have the SHA-256 that is known of it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from smalti.errors import SmaltiError

VARIABLE = "SMALTI_WEIGHTS"
"""Environment variable: a folder that holds weights under their published file names."""

TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up."""


class WeightsUnavailableError(SmaltiError):
    """The weights are in no place that was looked at and could not be downloaded."""


@dataclass(frozen=True)
class WeightsSource:
    """Where published weights come from.

    Attributes:
        url: address of the file.
        sha256: of the file; None: its first digits end the file's name, as torch.hub wants it.
    """

    url: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2].partition("?")[0]

    @property
    def prefix(self) -> str:
        """The first digits of the file's SHA-256, as many as are known."""
        return self.sha256 or Path(self.file).stem.rpartition("-")[2]


SOURCES: dict[str, WeightsSource] = {
    "vgg16": WeightsSource("https://download.pytorch.org/models/vgg16-397923af.pth"),
    "alexnet": WeightsSource("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
    "inception": WeightsSource(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    ),
    "i3d": WeightsSource(
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    ),
}
"""What `resolve` knows: torchvision's VGG16 and AlexNet (LPIPS), the Inception-v3 that torch-fidelity converted (FID), the
I3D that StyleGAN-V converted (FVD)."""

_failures: dict[str, str] = {}  # url -> why its download failed; a process asks the network once


def resolve(name: str, path: Path | None = None) -> Path:
    """The file that holds the weights `name`, checked.

    Args:
        name: one of `SOURCES`.
        path: the file itself, or a folder that holds it; the other places are then not looked at.

    Raises:
        WeightsUnavailableError: it is nowhere and cannot be downloaded; the message says which file, address, hash and
            variable are wanted.
        SmaltiError: an unknown name, a path or folder that is not there, or a file with another hash.
    """
    if name not in SOURCES:
        raise SmaltiError(f"No published weights are called '{name}': the names are {', '.join(SOURCES)}.")
    source = SOURCES[name]
    if path is not None:
        file = path / source.file if path.is_dir() else path
        if not file.is_file():
            raise SmaltiError(
                f"The {name} weights are not at {file}: give the path of {source.file} (from {source.url})."
            )
        return _checked(file, source)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (_user_folder(), cache):
        if folder is not None and (folder / source.file).is_file():
            return _checked(folder / source.file, source)
    return _downloaded(name, source, cache / source.file)


def digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; read once as long as its size and time stay the same."""
    stat = path.stat()
    return _digest(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _digest(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(file: Path, source: WeightsSource) -> Path:
    found = digest(file)
    if not found.startswith(source.prefix):
        raise SmaltiError(
            f"{file} is damaged or another file: its SHA-256 starts with {found[: len(source.prefix)]} where "
            f"{source.prefix} is wanted; delete it, and fetch it again from {source.url}."
        )
    return file


def _user_folder() -> Path | None:
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise SmaltiError(f"{VARIABLE} is {value}, which is not a folder: correct it or unset it.")
    return folder


def _downloaded(name: str, source: WeightsSource, target: Path) -> Path:
    if source.url not in _failures:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(TIMEOUT):
                # Checks the hash, and moves the file to its name only when it is whole.
                torch.hub.download_url_to_file(source.url, str(target), source.prefix, progress=sys.stderr.isatty())
            return target
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            _failures[source.url] = " ".join(str(error).split()) or type(error).__name__
    raise WeightsUnavailableError(
        f"The {name} weights are not on this machine and could not be downloaded ({_failures[source.url]}): put "
        f"{source.file} (SHA-256 {source.prefix}..., from {source.url}) into a folder and name it in {VARIABLE}."
    )


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
