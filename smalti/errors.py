"""Errors that are meant for people: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class SmaltiError(Exception):
    """Bad input that the user can mend; the command prints its one sentence and exits with code 2.

    Raise it where the user's file, recipe, option or machine is at fault, never for a defect of ours.
    """


class MissingExtraError(SmaltiError):
    """An optional dependency is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of smalti that installs it.
        purpose: what needs it, as the start of a sentence ("The packaged photos").
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} need {package}, which is not installed: run `pip install 'smalti[{extra}]'`.")


class UnreadableError(SmaltiError):
    """A file, or the bytes of one, that is not what it should be; loaders skip it, count it and name it in the log.

    Args:
        name: the file, or what stands for it.
        reason: what is wrong with it, without a full stop.

    Attributes:
        kind: what it should be, with its article.
    """

    kind = "a file"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be read as {self.kind} ({reason}): check that it is whole, or take it out.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        """Pickle by the two arguments: exceptions cross from a worker to its parent."""
        return type(self), (self.name, self.reason)


class DivergedError(SmaltiError):
    """Training met a number that is not finite and stopped before it could spoil the weights."""
