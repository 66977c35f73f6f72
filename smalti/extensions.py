"""Importing a user's own classes and objects by dotted path."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from smalti.errors import SmaltiError


def import_object(path: str, kind: str) -> Any:
    """Import an object that is defined outside of Smalti.

    This runs the code of its module: pass only paths that the user gave for this purpose, never one from a file.

    Args:
        path: dotted path of the module and the name in it, such as "my_package.MyMetric".
        kind: what the object should be, for the error message: "The {kind} {path} cannot be imported ...".

    Raises:
        SmaltiError: the module cannot be imported, for whatever reason, or does not have the name.
    """
    module_name, _, name = path.rpartition(".")
    try:
        if not module_name or not all(part.isidentifier() for part in path.split(".")):
            raise ImportError("it is not a dotted path of a module and a name")
        module = import_module(module_name)
        if not hasattr(module, name):
            raise ImportError(f"module {module_name} has no {name}")
        return getattr(module, name)
    except Exception as error:  # the module is the user's and can raise anything
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SmaltiError(
            f"The {kind} {path} cannot be imported ({reason}): check the path, and that PYTHONPATH contains its folder."
        ) from error
