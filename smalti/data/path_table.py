"""A list of many paths in little memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor


class PathTable(Sequence[Path]):
    """An immutable list of paths: their bytes in one array, and where each ends.

    Takes the bytes of each path and 9 more. The workers of a loader share both arrays with the main process. A list of
    `Path` objects takes about 500 bytes per path, and each worker copies what it reads, because this changes reference
    counts.

    Args:
        paths: the paths, relative to `root` if it is given.
        root: folder that the paths in the table start with. It is stored once.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], root: Path | None = None) -> None:
        content = bytearray()
        ends = [0]
        for path in paths:
            content += os.fsencode(path)
            content.append(0)
            ends.append(len(content))
        self._ends = torch.tensor(ends, dtype=torch.int64)
        self._bytes = torch.frombuffer(content or bytearray(1), dtype=torch.uint8)[: len(content)]
        self._root = root

    @classmethod
    def from_tensors(cls, content: Tensor, ends: Tensor, root: Path | None) -> PathTable:
        """Return the table whose `to_tensors` returned these tensors."""
        table = cls((), root)
        table._bytes, table._ends = content, ends
        return table

    def to_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the bytes of the paths without the root, each followed by a zero, and where each ends, from 0 on."""
        return self._bytes, self._ends

    def relative(self, index: int) -> str:
        """Return the path at an index without the root."""
        index = range(len(self))[index]  # raises an IndexError
        begin, end = self._ends[index : index + 2].tolist()
        return os.fsdecode(self._bytes[begin : end - 1].numpy().tobytes())

    def digest(self) -> str:
        """Return the SHA-256 of the paths without the root, 64 hexadecimal digits; see `digest_names`."""
        return hashlib.sha256(self._bytes.numpy().data).hexdigest()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Path(self.relative(index)) if self._root is None else self._root / self.relative(index)

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))


def digest_names(names: Iterable[str]) -> str:
    """Return the SHA-256 of names in order, each followed by a zero byte, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()
