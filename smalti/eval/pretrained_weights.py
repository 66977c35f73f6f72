"""Weights of published metrics that no package contains: find or download them, and verify their SHA-256.

They are searched in this order: the caller's path, the folder in the environment variable SMALTI_WEIGHTS, the cache of
torch.hub. If none has them, they are downloaded into that cache, once by all processes that need them at the same time.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from smalti.errors import SmaltiError
from smalti.files import sha256

WEIGHTS_VARIABLE = "SMALTI_WEIGHTS"
"""Environment variable with a folder that contains weights under their published file names."""

DOWNLOAD_TIMEOUT = 10.0
"""Seconds without a response after which a download fails."""


class WeightsUnavailableError(SmaltiError):
    """The weights were not found and could not be downloaded."""


@dataclass(frozen=True)
class WeightsSource:
    """Where published weights come from.

    Attributes:
        url: address of the file.
        sha256: SHA-256 of the file; None if its first digits are at the end of the file name, as torch.hub requires.
    """

    url: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2].partition("?")[0]

    @property
    def prefix(self) -> str:
        """The first digits of the file's SHA-256, or all of them if they are known."""
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
"""The weights that `resolve` knows: torchvision's VGG16 and AlexNet (LPIPS), the Inception-v3 converted by torch-fidelity
(FID), and the I3D converted by StyleGAN-V (FVD)."""

_failures: dict[str, str] = {}  # reasons of failed downloads by URL: a process tries each download once


def resolve(name: str, path: Path | None = None) -> Path:
    """Return a verified file of weights. Download it if necessary.

    Args:
        name: one of `SOURCES`.
        path: the file, or a folder that contains it; None to look in the other places.

    Raises:
        WeightsUnavailableError: the file was not found and cannot be downloaded. The message names the file, its address,
            its SHA-256 and the environment variable.
        SmaltiError: an unknown name, a missing path or folder, or a file with another SHA-256.
    """
    if name not in SOURCES:
        raise SmaltiError(f"The weights '{name}' are unknown: use one of {', '.join(SOURCES)}.")
    source = SOURCES[name]
    if path is not None:
        file = path / source.file if path.is_dir() else path
        if not file.is_file():
            raise SmaltiError(
                f"The {name} weights are not at {file}: give the path of {source.file} (from {source.url})."
            )
        return _verify(file, source)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (_user_folder(), cache):
        if folder is not None and (folder / source.file).is_file():
            return _verify(folder / source.file, source)
    return _download(name, source, cache / source.file)


def _verify(file: Path, source: WeightsSource) -> Path:
    actual = sha256(file)
    if not actual.startswith(source.prefix):
        raise SmaltiError(
            f"{file} is damaged or a different file: its SHA-256 starts with {actual[: len(source.prefix)]} instead of "
            f"{source.prefix}; delete it, and download it again from {source.url}."
        )
    return file


def _user_folder() -> Path | None:
    value = os.environ.get(WEIGHTS_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise SmaltiError(f"{WEIGHTS_VARIABLE} is {value}, which is not a folder: correct it or unset it.")
    return folder


def _download(name: str, source: WeightsSource, target: Path) -> Path:
    if source.url not in _failures:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _one_process_at_a_time(target) as waited:
                if target.is_file():
                    return _verify(target, source)  # another process has downloaded it in the meantime
                if waited:
                    raise OSError("another process has tried")
                with _socket_timeout(DOWNLOAD_TIMEOUT):
                    # Verifies the SHA-256, and renames the file only after the download is complete.
                    torch.hub.download_url_to_file(source.url, str(target), source.prefix, progress=sys.stderr.isatty())
            return target
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            _failures[source.url] = " ".join(str(error).split()) or type(error).__name__
    digits = source.prefix if source.sha256 else f"starting with {source.prefix}"
    raise WeightsUnavailableError(
        f"The {name} weights are not on this machine and could not be downloaded ({_failures[source.url]}): put "
        f"{source.file} (from {source.url}, SHA-256 {digits}) into a folder, and set {WEIGHTS_VARIABLE} to it."
    )


@contextmanager
def _one_process_at_a_time(target: Path) -> Iterator[bool]:
    """Hold the lock of a download. Yield whether another process held it before, and has tried the same download."""
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
        waited = False
    except Timeout:
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
