"""Importing modules and objects of the user, only when the user names them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from smalti.errors import SmaltiError

IMPORT_OPTION = "--import"
IMPORT_VARIABLE = "SMALTI_IMPORT"
"""Environment variable with the names of modules to import before a command runs, separated by commas."""

UNTRUSTED_OPTION = "--untrusted"
UNTRUSTED_VARIABLE = "SMALTI_UNTRUSTED"
"""Environment variable that is set while recipes must not run code. Processes that a command starts inherit it."""

TRUSTED_PACKAGES = ("smalti", "torch.optim", "lightning")
"""Packages whose classes an untrusted recipe may name."""


def import_requested_modules(arguments: list[str]) -> list[str]:
    """Import the modules named by `--import MODULE` (repeatable) and by the environment variable SMALTI_IMPORT.

    A tokenizer with a user's class can be loaded only after the module of the class was imported, because a configuration
    never makes Python import anything. Sets the environment variable for the processes that the command starts.

    Args:
        arguments: the arguments of a command.

    Returns:
        The arguments without `--import`.

    Raises:
        SmaltiError: `--import` has no value, or a module cannot be imported.
    """
    remaining: list[str] = []
    modules = _requested_modules()
    iterator = iter(arguments)
    for argument in iterator:
        option, equals, name = argument.partition("=")
        if option != IMPORT_OPTION:
            remaining.append(argument)
            continue
        name = name if equals else next(iterator, "")
        if not name:
            raise SmaltiError(f"{IMPORT_OPTION} has no value: give the name of a module, such as my_package.")
        modules.append(name)
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # the module is the user's and can raise anything
            raise SmaltiError(
                f"The module {name} cannot be imported ({_reason(error)}): check its name, and that PYTHONPATH contains "
                "its folder."
            ) from error
    if modules:
        os.environ[IMPORT_VARIABLE] = ",".join(dict.fromkeys(modules))
    return remaining


def import_options() -> list[str]:
    """Return `--import MODULE` for each module that was requested, to repeat in a command that is printed."""
    return [word for name in _requested_modules() for word in (IMPORT_OPTION, name)]


def trusted_packages() -> list[str]:
    """Return the packages whose classes an untrusted recipe may name: `TRUSTED_PACKAGES` and those of `--import`."""
    return [*TRUSTED_PACKAGES, *_requested_modules()]


def is_untrusted() -> bool:
    """Return whether recipes must not run code."""
    return bool(os.environ.get(UNTRUSTED_VARIABLE))


def refuse_code(what: str, allowed: str) -> SmaltiError:
    """Return the error for a part of an untrusted recipe that would run code.

    Args:
        what: the part, which starts the message.
        allowed: what may be used instead.
    """
    return SmaltiError(
        f"{what} can run code, which {UNTRUSTED_OPTION} refuses: use {allowed}, or leave out {UNTRUSTED_OPTION} if you "
        "trust the recipe."
    )


def import_object(path: str, kind: str) -> Any:
    """Import an object that is defined outside of Smalti.

    This runs the code of its module. Pass only paths that the user typed, never one that was read from a file.

    Args:
        path: dotted path of the module and the name in it, such as "my_package.MyMetric".
        kind: what the object should be, such as "metric", for the error message.

    Raises:
        SmaltiError: the path is malformed, the module raises an error on import, it does not define the name, or recipes
            must not run code and the module is not of a trusted package.
    """
    if is_untrusted() and not any(path.startswith(f"{package}.") for package in trusted_packages()):
        raise refuse_code(f"The {kind} {path}", f"classes of {', '.join(trusted_packages())}")
    module_name, _, name = path.rpartition(".")
    try:
        if not module_name or not all(part.isidentifier() for part in path.split(".")):
            raise ImportError("it is not a dotted path of a module and a name")
        module = import_module(module_name)
        if not hasattr(module, name):
            raise ImportError(f"module {module_name} has no {name}")
        return getattr(module, name)
    except Exception as error:  # the module is the user's and can raise anything
        raise SmaltiError(
            f"The {kind} {path} cannot be imported ({_reason(error)}): check the path, and that PYTHONPATH contains its "
            "folder."
        ) from error


def _requested_modules() -> list[str]:
    return [name for name in os.environ.get(IMPORT_VARIABLE, "").split(",") if name]


def _reason(error: Exception) -> str:
    """Return the message of an error in one line, without a period."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
