"""Locating data files that other Python packages ship: real data without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from smalti.errors import MissingExtraError, SmaltiError

Split = Literal["train", "validation", "all"]
"""Splits of the packaged sources."""


class Package(NamedTuple):
    """Location of data files in an installed package.

    Attributes:
        distribution: name under which it is installed.
        module: name under which it is imported.
        folder: folder of the files, relative to that of the module.
        extra: optional dependency group of smalti that installs it.
        purpose: what needs it, as the start of a sentence ("The packaged photos").
    """

    distribution: str
    module: str
    folder: str
    extra: str
    purpose: str


def locate(name: str, package: Package) -> Path:
    """Return the path of a file in a package. The package is not imported: this would take about a second.

    Raises:
        MissingExtraError: the package is not installed.
        SmaltiError: the installed version does not contain the file.
    """
    spec = find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(package.distribution, package.extra, package.purpose)
    path = Path(spec.submodule_search_locations[0], package.folder, name)
    if not path.is_file():
        raise SmaltiError(
            f"The installed version of {package.distribution} does not contain {name}: install another version."
        )
    return path


def check_split(split: str, kind: str) -> None:
    """Check the name of a split.

    Args:
        split: the name.
        kind: what the files are, for the error message: "photos" or "clips".

    Raises:
        SmaltiError: it is not a `Split`.
    """
    if split not in get_args(Split):
        raise SmaltiError(f"The packaged {kind} have no split '{split}': use train, validation or all.")
