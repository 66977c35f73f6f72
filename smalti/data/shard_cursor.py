"""A position in a stream of shard samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from smalti.data.shard_reading import EncodedSample
from smalti.data.sources import ReadFailure


class ShardCursor:
    """A position in a lane of shards that moves forward only and can look ahead.

    Args:
        items: what `Shards.read_lane` returned.

    Attributes:
        position: index of the current sample in the lane, from 0.
    """

    def __init__(self, items: Iterable[EncodedSample | ReadFailure]) -> None:
        self._items = iter(items)
        self._ahead: deque[EncodedSample] = deque()
        self._failures: list[ReadFailure] = []
        self.position = 0

    def seek(self, position: int) -> None:
        """Move to a position at or after the current one. The samples that are skipped are not decoded."""
        while self.position < position and self.peek(0) is not None:
            self._ahead.popleft()
            self.position += 1

    def peek(self, offset: int) -> EncodedSample | None:
        """Return the sample `offset` positions after the current one, or None if the lane ends before it."""
        while len(self._ahead) <= offset:
            item = next(self._items, None)
            if item is None:
                return None
            if isinstance(item, ReadFailure):
                self._failures.append(item)
            else:
                self._ahead.append(item)
        return self._ahead[offset]

    def take_failures(self) -> list[ReadFailure]:
        """Return the damaged or missing shards that were found since the last call."""
        failures, self._failures = self._failures, []
        return failures
