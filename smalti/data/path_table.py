"""A list of many paths in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import torch


class PathTable(Sequence[Path]):
    """An immutable list of paths: their bytes in one array, and where each ends.

    Takes the bytes of each path and 8 more. The workers of a loader share both arrays with the main process. A list of
    `Path` objects takes about 500 bytes per path, and each worker copies what it reads, because this changes reference
    counts.

    Args:
        paths: the paths.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        content = bytearray()
        ends = [0]
        for path in paths:
            content += os.fsencode(path)
            ends.append(len(content))
        self._ends = torch.tensor(ends, dtype=torch.int64)
        self._bytes = torch.frombuffer(content or bytearray(1), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # raises an IndexError
        begin, end = self._ends[index : index + 2].tolist()
        return Path(os.fsdecode(self._bytes[begin:end].numpy().tobytes()))

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))
