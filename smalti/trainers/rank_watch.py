"""Ending all processes of a training soon after one of them fails or dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import distributed
from torch.distributed import distributed_c10d

from smalti.distributed import is_distributed
from smalti.errors import SmaltiError
from smalti.trainers.rank_errors import RAISED_TOGETHER, describe

_INTERVAL = 1.0
"""Seconds between two signs of life."""
_LIMIT_AFTER_LOSS = 5
"""Missing signs of life after which a rank is dead if another rank has lost a connection."""
_LEFT = 1 << 40
"""Added to the signs of life of a rank that ends as planned."""
_GRACE = 3 * _INTERVAL
"""Seconds for which rank 0, which may host the store, lets the other ranks read why the training ends."""


class _Verdict(NamedTuple):
    """Why the training ends, and the exit code."""

    message: str
    code: int


class RankWatch(pl.Callback):
    """Ends all processes of a training within a minute after one has failed or died, with a message that names the rank.

    Without it, the others wait in a collective until its time limit, which is up to half an hour, or are killed without a
    word. A thread in each process adds a sign of life to the store of the process group every second. Rank 0 watches all
    ranks, and they watch rank 0. A rank that raises an error writes its message to the store. Nothing is saved then: the
    others may be within a step, and the last checkpoint stays. Errors that all ranks raise together, among them errors of
    the training data, are not affected: the ranks save first, see `smalti.trainers.rank_errors`.

    With Lightning's launcher, rank 0 also watches the processes that it has launched, instead of Lightning, which would
    kill rank 0 while it saves.

    Args:
        timeout: seconds without a sign of life after which a rank is dead. The time in which a process is suspended does
            not count.
    """

    _count = 0
    """Number of watches in this process: each has its own keys in the store."""

    def __init__(self, timeout: float = 30.0) -> None:
        if timeout < _LIMIT_AFTER_LOSS:
            raise SmaltiError(f"The timeout of the watch is {timeout:g} seconds: give at least {_LIMIT_AFTER_LOSS}.")
        self.timeout = timeout
        self.children: list[subprocess.Popen[Any]] = []
        """Processes that rank 0 of this node has launched."""
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start to watch."""
        if stage != "fit" or trainer.world_size == 1 or not is_distributed():
            return
        launched = getattr(trainer.strategy.launcher, "procs", [])
        self.children = list(launched)
        launched.clear()  # Lightning's observer has the same list, and ends when it is empty
        RankWatch._count += 1
        # The connection is cloned because the main thread may wait in the other one.
        store = distributed_c10d._get_default_store().clone()
        self._store = distributed_c10d.PrefixStore(f"smalti_watch_{RankWatch._count}", store)
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        self._beats: dict[int, tuple[int, int]] = {}
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="rank-watch", daemon=True)
        self._thread.start()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop watching when all ranks are here: the process that hosts the store may end soon."""
        if self._thread is not None:
            trainer.strategy.barrier()
            self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tell the other ranks why this one fails, unless they know."""
        if self._thread is None:
            return
        if isinstance(exception, RAISED_TOGETHER):
            self._stop()
        elif _is_lost_connection(exception):
            # Another rank has ended. The thread finds out which one, and ends this process.
            self._store.set("lost", "1")
            self._thread.join(self.timeout + 10 * _INTERVAL)
        else:
            self._stopped.set()
            code = 2 if isinstance(exception, SmaltiError) else 130 if isinstance(exception, KeyboardInterrupt) else 1
            self._publish(_Verdict(f"Rank {self._rank}: {describe(exception)}", code))
            if self._rank == 0:
                time.sleep(_GRACE)
            self.end_children(_GRACE)

    def end_children(self, patience: float) -> None:
        """Wait for the processes that this one has launched, and kill those that are still alive.

        Args:
            patience: seconds to wait for all of them.
        """
        deadline = time.monotonic() + patience
        for child in self.children:
            try:
                child.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                child.kill()

    def _stop(self) -> None:
        """Stop watching, and tell the others that this rank is not dead."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._store.add(f"{self._rank}", _LEFT)

    # In the thread

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            is_news = self._rank == 0
            try:
                verdict = self._poll()
            except RuntimeError:  # the store cannot be reached
                verdict, is_news = _Verdict("Rank 0, or the process that launched it, has ended.", 1), True
            if verdict is not None and not self._stopped.is_set():
                self._end(verdict, is_news or verdict.message.startswith("Rank 0"))

    def _poll(self) -> _Verdict | None:
        """Give a sign of life, and return why the training must end, if it must."""
        self._store.add(f"{self._rank}", 1)
        if self._store.check(["verdict"]):
            return _Verdict(*json.loads(self._store.get("verdict")))
        for index, child in enumerate(self.children):
            if child.poll():
                return self._publish(_Verdict(f"Rank {self._rank + 1 + index} {_describe_end(child)}", 1))
        limit = _LIMIT_AFTER_LOSS if self._store.check(["lost"]) else round(self.timeout / _INTERVAL)
        for other in range(1, self._world_size) if self._rank == 0 else [0]:
            # Polls are counted, not seconds: after this process was suspended, the others must get time as well.
            beats = self._store.add(f"{other}", 0)
            last, missed = self._beats.get(other, (-1, 0))
            self._beats[other] = (beats, missed + 1 if beats == last and beats < _LEFT else 0)
            if self._beats[other][1] > limit:
                message = (
                    f"Rank {other} has given no sign of life for {limit * _INTERVAL:g} seconds: its process has died."
                )
                return self._publish(_Verdict(message, 1))
        return None

    def _publish(self, verdict: _Verdict) -> _Verdict:
        """Tell all ranks why the training ends, unless another rank was faster, and return what holds."""
        try:
            return _Verdict(*json.loads(self._store.compare_set("verdict", "", json.dumps(verdict))))
        except RuntimeError:  # the store cannot be reached, which the others notice as well
            return verdict

    def _end(self, verdict: _Verdict, prints: bool) -> None:
        """End this process. Its main thread may wait for a rank that does not exist anymore."""
        if prints:
            hint = "All processes end; the last checkpoint is kept: resume from it, for example with --ckpt_path last-good."
            print(f"smalti fit: error: {verdict.message} {hint}", file=sys.stderr)
        if self._rank == 0:
            time.sleep(_GRACE)
            self.end_children(_GRACE)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(verdict.code)


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether a collective has failed because of another process. gloo raises a RuntimeError."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _describe_end(process: subprocess.Popen[Any]) -> str:
    code = process.returncode
    if code >= 0:
        return f"has ended with exit code {code}: see its messages."
    reason = " The system also does this when memory runs out." if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}.{reason}"
