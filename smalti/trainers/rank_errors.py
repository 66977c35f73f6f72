"""Errors that all ranks raise together, so that they can still save together."""

from __future__ import annotations

from typing import NoReturn

from smalti.distributed import gather, rank
from smalti.errors import DivergedError, SmaltiError
from smalti.trainers.stop_signals import Stopped


class RankError(SmaltiError):
    """A rank has failed because of bad input, and all ranks raise this. On the rank that failed, it has the cause."""


class RankCrashError(RuntimeError):
    """A rank has failed with an unexpected error, and all ranks raise this. On the rank that failed, it has the cause."""


RAISED_TOGETHER = (Stopped, DivergedError, RankError, RankCrashError)
"""What all ranks raise together. After any other error, the other ranks do not know that a rank has failed."""


def raise_together(error: BaseException | None) -> NoReturn:
    """Raise the errors of all ranks on all ranks. They must call this together.

    Args:
        error: what has failed in this process; None if it is another one.

    Raises:
        RankError: all errors are SmaltiErrors.
        RankCrashError: another error is among them.
    """
    own = None if error is None else (f"Rank {rank()}: {describe(error)}", isinstance(error, SmaltiError))
    failures = [failure for failure in gather(own) if failure is not None]
    message = " ".join(text for text, _ in failures)
    kind = RankError if all(for_users for _, for_users in failures) else RankCrashError
    raise kind(message) from error


def describe(error: BaseException) -> str:
    """Return the message of an error, with its type if the message is not written for users."""
    return str(error) if isinstance(error, SmaltiError) else f"{type(error).__name__}: {error}"
