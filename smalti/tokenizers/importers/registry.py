"""The registry of families: it finds every file of this package that exports a `FAMILY`."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from smalti.errors import SmaltiError
from smalti.extensions import import_object
from smalti.tokenizers.importers.family import Family


@cache
def registered_families() -> dict[str, Family]:
    """Import all modules of this package and return their families by name, sorted."""
    from smalti.tokenizers import importers

    names = [info.name for info in pkgutil.iter_modules(importers.__path__)]
    modules = [import_module(f"{importers.__name__}.{name}") for name in names]
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in sorted(found, key=lambda family: family.name)}


def families() -> list[str]:
    """Return the sorted names of the families that `from_published` knows."""
    return list(registered_families())


def find_family(name: str) -> Family:
    """Return the family of a name.

    Raises:
        SmaltiError: there is no such family.
    """
    if name not in registered_families():
        raise SmaltiError(f"There is no importer for '{name}': the families are {', '.join(families())}.")
    return registered_families()[name]


def load_family(path: str) -> Family:
    """Import a family that is defined outside of Smalti.

    Args:
        path: dotted path, such as "my_package.my_release.FAMILY".

    Raises:
        SmaltiError: the path cannot be imported, or is not a `Family`.
    """
    family = import_object(path, "family")
    if not isinstance(family, Family):
        raise SmaltiError(
            f"{path} is a {type(family).__name__}, not a smalti.tokenizers.importers.Family: give the path of the object "
            "that describes the release."
        )
    return family
