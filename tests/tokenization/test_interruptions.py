"""A run that SIGKILL ends at any point continues, and ends with the bytes of an unbroken run.

Each run is a process of its own, forked from this one, which has imported everything: it starts in milliseconds.
"""

import os
import random
import signal
import time

import pytest

from smalti.tokenization import shard_output


def fork(function):
    """Call a function in a child process, and return its process id. The exit code is what it returns."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = function()
        finally:
            os._exit(code)
    return pid


def wait(pid):
    """Return the exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("format_", "data"), [("webdataset", "shard-{0..2}.tar"), ("npy", "photos"), ("megatron", "photos"), ("parquet",
    "photos")]
)  # fmt: skip
def test_kills_at_random_times(work, bulk, content, format_, data):
    options = {"format_": format_, "data": data}
    start = time.monotonic()
    assert wait(fork(lambda: bulk("unbroken", **options))) == 0
    duration = time.monotonic() - start
    times = random.Random(0)
    killed = 0
    for _ in range(5):
        pid = fork(lambda: bulk("killed", **options))
        time.sleep(times.uniform(0.02, 0.9) * duration)
        os.kill(pid, signal.SIGKILL)
        if wait(pid) == -signal.SIGKILL:
            killed += 1
        else:  # it had finished: other runs have warmed up what the first one had to load
            duration /= 2
    assert killed >= 1
    assert wait(fork(lambda: bulk("killed", **options))) == 0
    assert content(work / "killed") == content(work / "unbroken")


POINTS = {
    "in the middle of a shard": (shard_output.ShardOutput, "add", 13),
    "before its files are moved": (shard_output, "_describe_file", 4),
    "after its files are moved": (shard_output.ShardOutput, "discard", 2),
    "before a marker": (shard_output.Marker, "write", 2),
    "while a marker is written": (os, "fsync", 2),
}


@pytest.mark.parametrize("point", POINTS)
def test_kills_at_each_kind_of_point(work, bulk, content, monkeypatch, point):
    owner, name, countdown = POINTS[point]
    original = getattr(owner, name)

    def run_and_die():
        remaining = [countdown]

        def count_down(*arguments, **options):
            remaining[0] -= 1
            if not remaining[0]:
                die()
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, count_down)
        return bulk("killed", format_="megatron")

    assert wait(fork(run_and_die)) == -signal.SIGKILL
    if point == "in the middle of a shard":
        assert list((work / "killed").glob(".partial-*"))
    assert wait(fork(lambda: bulk("killed", format_="megatron"))) == 0
    assert wait(fork(lambda: bulk("unbroken", format_="megatron"))) == 0
    assert content(work / "killed") == content(work / "unbroken")


def test_workers_of_a_killed_run_do_not_disturb_the_next_one(work, bulk, content):
    pid = fork(lambda: bulk("killed", "--workers", "2"))
    time.sleep(0.4)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert wait(fork(lambda: bulk("killed", "--workers", "2"))) == 0
    assert bulk("unbroken") == 0
    assert content(work / "killed") == content(work / "unbroken")


def test_a_shard_that_is_lost_or_truncated_later_is_written_again(work, bulk, content):
    assert bulk("a") == bulk("b") == 0
    (work / "a" / "tokens-000001.ids.npy").write_bytes(b"")
    (work / "a" / "tokens-000002.jsonl").unlink()
    assert bulk("a") == 0
    assert content(work / "a") == content(work / "b")
