"""Rows without their arrays as lines of JSON, next to formats that hold arrays only."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".jsonl"


class LineReader:
    """Reads lines of a text file in any order. The file is read once.

    Args:
        file: the file.
    """

    def __init__(self, file: Path) -> None:
        self._content = file.read_bytes()
        self._ends = [0]
        end = self._content.find(b"\n")
        while end >= 0:
            self._ends.append(end + 1)
            end = self._content.find(b"\n", end + 1)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._content[self._ends[index] : self._ends[index + 1]].decode("utf-8")
