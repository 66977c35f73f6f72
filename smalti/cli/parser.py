"""The argument parser of commands: grouped options, examples in the help, and errors in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NoReturn

from smalti.errors import SmaltiError
from smalti.extensions import IMPORT_OPTION, IMPORT_VARIABLE


class CommandParser(argparse.ArgumentParser):
    """Parser of one command of `smalti`.

    The help ends with examples, and lists `--import`, which the entry point handles for every command. Options cannot be
    abbreviated.

    Args:
        name: name of the command.
        description: what the command does, in one or two sentences.
        examples: complete command lines.
        notes: paragraph between the options and the examples.
    """

    def __init__(self, name: str, description: str, examples: Sequence[str], notes: str = "") -> None:
        listing = "\n".join(["examples:", *(f"  {example}" for example in examples)])
        super().__init__(
            f"smalti {name}",
            description=description,
            epilog="\n\n".join(filter(None, (notes, listing))),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments after the command's name.

        Raises:
            SmaltiError: an argument is missing, unknown or invalid.
        """
        general = self.add_argument_group("general options")
        general.add_argument("--help", "-h", action="help", help="show this help and exit")
        general.add_argument(
            IMPORT_OPTION,
            metavar="MODULE",
            help="import your own module first, which tokenizers with classes of your own need; repeat the option for "
            f"several modules, or set the environment variable {IMPORT_VARIABLE}",
        )
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            self._refuse(unknown[0])
        return options

    def error(self, message: str) -> NoReturn:
        """Raise a SmaltiError with the message of argparse."""
        message = message.replace("the following arguments are required", "missing")
        raise SmaltiError(f"{message[0].upper()}{message[1:]}; see `{self.prog} --help` for the options and examples.")

    def _refuse(self, argument: str) -> NoReturn:
        """Raise an error for an unknown option, or for an argument too many."""
        if not argument.startswith("-"):
            takes_input = any(action.dest == "input" for action in self._actions)
            advice = " (quote names with spaces, and pass a folder for several files)" if takes_input else ""
            self.error(f"unexpected argument '{argument}'{advice}")
        name = argument.partition("=")[0]
        matches = get_close_matches(name, list(self._option_string_actions), n=1, cutoff=0.7)
        self.error(f"there is no option {name}" + (f" (did you mean {matches[0]}?)" if matches else ""))


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return a function that parses an int64 of at least `minimum`, as the `type` of an option."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value < 2**63:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {minimum}")
        return value

    return parse


def fraction(text: str) -> float:
    """Parse a number from 0 to 1, as the `type` of an option."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return value


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs, and keeps paragraphs of several lines, such as examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n" in part else fill(part, width, indent) for part in text.split("\n\n"))
