"""webdataset shards: tar files whose samples are read as a stream.

A training epoch of one process is dealt over `lanes`: each lane reads its own shards through its own shuffle buffer, and
batch b comes from lane b mod lanes. So the order does not depend on the number of workers, whichever worker reads a batch
needs only the lane that it comes from, and what was seen before a restart is passed over without being decoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from smalti.data.shard_reading import Encoded
from smalti.data.sources import Fault


class ShardCursor:
    """A place in a lane that moves forward only and can look ahead.

    Args:
        items: what `Shards.lane` gave.
    """

    def __init__(self, items: Iterable[Encoded | Fault]) -> None:
        self._items = iter(items)
        self._ahead: deque[Encoded] = deque()
        self._faults: list[Fault] = []
        self.position = 0

    def seek(self, position: int) -> None:
        """Go to a sample, counted from 0, at or after the present one; nothing is decoded on the way."""
        while self.position < position and self.peek(0) is not None:
            self._ahead.popleft()
            self.position += 1

    def peek(self, ahead: int) -> Encoded | None:
        """The sample so many after the present one, or None where the lane has ended."""
        while len(self._ahead) <= ahead:
            item = next(self._items, None)
            if item is None:
                return None
            if isinstance(item, Fault):
                self._faults.append(item)
            else:
                self._ahead.append(item)
        return self._ahead[ahead]

    def take_faults(self) -> list[Fault]:
        """The shards that broke off since this was asked last."""
        faults, self._faults = self._faults, []
        return faults
