"""Errors for users: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import re
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class SmaltiError(Exception):
    """Bad input that the user can fix. The command line prints the message and exits with code 2.

    Raise it for problems with a user's files, recipes, options or environment, never for a bug in Smalti.
    """


def install_hint(extra: str) -> str:
    """Return what to type to install an extra of Smalti, which is installed from a clone of its repository."""
    return f"run `pip install -e '.[{extra}]'` in your clone of Smalti"


class MissingExtraError(SmaltiError):
    """An optional dependency is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of smalti that installs it.
        purpose: what needs the package: a plural that starts the message, such as "The packaged photos".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} need {package}, which is not installed: {install_hint(extra)}.")


class UnreadableError(SmaltiError):
    """A file, or the bytes of a file, cannot be decoded. Data loaders skip the file, count it and log its name.

    Args:
        name: path of the file, or a description of the bytes.
        reason: what is wrong with it, without a period at the end.
        remedy: what to do, in the imperative; None to check that the file is complete.

    Attributes:
        kind: what the file should be, with an article, such as "an image". Subclasses override it.
    """

    kind = "a file"

    def __init__(self, name: str, reason: str, remedy: str | None = None) -> None:
        advice = remedy or "check that the file is complete, or remove it"
        super().__init__(f"{name} cannot be read as {self.kind} ({reason}): {advice}.")
        self.name = name
        self.reason = reason
        self.remedy = remedy

    @property
    def summary(self) -> str:
        """The reason and, if this file needs a special one, the remedy, for lists of files."""
        return f"{self.reason}: {self.remedy}" if self.remedy else self.reason

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str, str | None]]:
        """Pickle the constructor arguments: data loader workers send the error to the main process."""
        return type(self), (self.name, self.reason, self.remedy)


def find_cause(error: BaseException, kind: type[E]) -> E | None:
    """Return the first error of a class among an error and its causes, which a library may have wrapped; else None."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, kind):
        current = current.__cause__ or current.__context__
    return current


class DivergedError(SmaltiError):
    """A loss or gradient is NaN or infinite. Training stops before the weights are updated."""


def explain_killed_worker(error: RuntimeError) -> SmaltiError | None:
    """Return the error for users if a process that loads data was killed; None for any other error.

    PyTorch raises the error where the main process waits for data, or, when a worker ends, at any other place.
    """
    pattern = r"DataLoader worker \(pid\S* ([\d, ]+)\) (?:is killed by signal: ([^.]*)|exited)"
    match = re.match(pattern, str(error))
    if match is None:
        return None
    pids, signal = match.groups(default="")
    if signal.startswith("Bus error"):
        remedy = (
            "shared memory is too small: increase it (`docker run --shm-size 16g`), or decrease the number of workers"
        )
    else:
        remedy = (
            "memory may be short: decrease the number of workers (for shards, also their `buffer`), or give the job more "
            "memory"
        )
    cause = f" ({signal})" if signal else ""
    return SmaltiError(f"A process that loads data (pid {pids}) was killed{cause}; {remedy}.")


LESS_MEMORY = (
    "set a smaller --data.batch_size or --data.size, or --model.gradient_checkpointing true, or train fewer parts with "
    "model.frozen"
)
"""What to do if a training step needs too much memory, for messages."""


def explain_out_of_memory(error: RuntimeError, *, training: bool) -> SmaltiError | None:
    """Return the error for users if a device has no memory left; None for any other error.

    Args:
        error: an error of torch.
        training: whether it was raised by a training run.
    """
    message = " ".join(str(error).split())
    if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in message:
        return None
    remedy = LESS_MEMORY if training else "use smaller images, shorter clips, smaller batches, --tile, or --device cpu"
    return SmaltiError(f"There is not enough memory ({message.partition('. ')[0].rstrip('.')}): {remedy}.")
