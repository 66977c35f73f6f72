"""Errors that are meant for people: one sentence that says what is wrong, where, and what to do."""


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


class DivergedError(SmaltiError):
    """Training met a number that is not finite and stopped before it could spoil the weights."""
